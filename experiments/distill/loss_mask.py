"""Between batches and models: who reads which ids, and which positions a loss counts."""

# Letters: B batch, T tokens of the language model, D model width.

from enum import Enum

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lab.core.data.batch import Batch
from lab.core.data.chat_template import IGNORED
from lab.core.models.config import PixelShuffle
from lab.core.models.decoder import Inputs, LanguageModel
from lab.core.models.hovle import Hovle


class Counted(Enum):
    """What a loss counts: all positions, padding too, as mmMamba does; real tokens; those that predict an answer."""

    all = "all"
    real = "real"
    answers = "answers"


def hidden_states(model: LanguageModel, batch: Batch) -> Float[Tensor, "B T D"]:
    """What the model's `logits` reads, at every position of `batch.llm_ids`."""
    reads_every_patch = isinstance(model, Hovle) and model.config.vision.pixel_shuffle is PixelShuffle.post
    inputs = Inputs(
        tokens=batch.llm_ids,
        pixel_values=batch.pixel_values if len(batch.pixel_values) else None,
        hd_tokens=batch.embedding_ids if reads_every_patch else None,
        lengths=batch.llm_lengths,
    )
    return model.hidden(inputs)


def next_tokens(batch: Batch) -> Int[Tensor, "B T"]:
    """At each position the label of the next one: the answer's token that it predicts, IGNORED elsewhere."""
    targets = torch.full_like(batch.labels, IGNORED)
    targets[:, :-1] = batch.labels[:, 1:]
    return targets


def counted(batch: Batch, which: Counted) -> Bool[Tensor, "B T"]:
    """The positions of `batch.llm_ids` that a loss counts."""
    if which is Counted.answers:
        return next_tokens(batch) != IGNORED
    if which is Counted.all:
        return torch.ones_like(batch.llm_ids, dtype=torch.bool)
    return _is_real(batch.llm_ids, batch.llm_lengths)


def counted_in_layer(batch: Batch, which: Counted, num_tokens: int) -> Bool[Tensor, "B T"] | None:
    """The positions that a layer's loss counts, for a layer that reads `num_tokens`; None for all of them."""
    if which is Counted.all:
        return None
    if num_tokens == batch.llm_ids.shape[1]:
        return counted(batch, which)
    assert which is Counted.real, "answers have no place in a sequence of patches; the configuration is refused"
    return _is_real(batch.embedding_ids, batch.embedding_lengths)


def _is_real(ids: Int[Tensor, "B T"], lengths: Int[Tensor, " B"]) -> Bool[Tensor, "B T"]:
    return torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]
