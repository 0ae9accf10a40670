"""An untied output head in a checkpoint whose config.json says `tie_word_embeddings`."""

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from lab.core.errors import CheckpointError
from lab.core.models.checkpoint import StoredTensors
from lab.core.models.config import DecoderConfig, ModelConfig
from lab.core.models.tensor_names import EMBEDDING, HEAD


def with_stored_head(config: ModelConfig, folder: Path) -> ModelConfig:
    """The architecture of a text model, with an output head of its own if a checkpoint has one beside the embedding.

    transformers ties nothing that a checkpoint has twice with other values, whatever its `tie_word_embeddings` says.

    Args:
        config: as config.json describes it.
        folder: of the checkpoint; one without weights is refused once they are asked for.
    """
    if not isinstance(config, DecoderConfig) or not config.tie_output:
        return config
    try:
        stored = StoredTensors(folder)
    except CheckpointError:
        return config
    is_another = HEAD in stored and EMBEDDING in stored and not _equal(stored[HEAD], stored[EMBEDDING])
    return replace(config, tie_output=False) if is_another else config


def _equal(one: Tensor, other: Tensor) -> bool:
    # numbers of a byte cannot be compared, and are refused when they are read
    if one.shape != other.shape or min(one.dtype.itemsize, other.dtype.itemsize) == 1:
        return False
    dtype = torch.promote_types(one.dtype, other.dtype) if one.dtype != other.dtype else one.dtype
    return torch.equal(one.to(dtype), other.to(dtype))
