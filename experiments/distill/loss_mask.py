"""From batches to model inputs and loss masks: which ids a model reads, which positions enter a loss."""

# Letters: C samples, B rows, T tokens of the language model, D model width.

from enum import Enum

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lab.core.data.batch import Batch
from lab.core.data.chat_template import IGNORED
from lab.core.models.decoder import Inputs, LanguageModel
from lab.core.operators.packing import Packing


class LossMask(Enum):
    """The positions that enter a loss."""

    all = "all"
    """Every position, including padding, as in mmMamba; packed samples have none."""
    non_padding = "non_padding"
    answers = "answers"
    """Positions that predict a token of an answer."""


def hidden_states(model: LanguageModel, batch: Batch) -> Float[Tensor, "B T D"]:
    """The hidden states from which `logits` are computed, at every position of `batch.llm_ids`."""
    return model.hidden(inputs_of(model, batch))


def inputs_of(model: LanguageModel, batch: Batch) -> Inputs:
    """A batch in the form that a model reads."""
    vision = model.config.vision
    reads_every_patch = vision is not None and vision.reads_every_patch
    return Inputs(
        tokens=batch.llm_ids,
        pixel_values=batch.pixel_values if len(batch.pixel_values) else None,
        hd_tokens=batch.embedding_ids if reads_every_patch else None,
        lengths=None if batch.is_packed else batch.llm_lengths,
        packing=_packing(batch.llm_lengths) if batch.is_packed else None,
        hd_packing=_packing(batch.embedding_lengths) if batch.is_packed and reads_every_patch else None,
    )


def next_tokens(batch: Batch) -> Int[Tensor, "B T"]:
    """The label of each position: the answer token that it predicts, IGNORED elsewhere."""
    targets = torch.full_like(batch.labels, IGNORED)
    targets[:, :-1] = batch.labels[:, 1:]
    if batch.is_packed:
        # the last token of a sample does not predict the first one of the next
        targets[0, batch.llm_lengths.cumsum(0) - 1] = IGNORED
    return targets


def loss_mask(batch: Batch, which: LossMask) -> Bool[Tensor, "B T"]:
    """The positions of `batch.llm_ids` that enter a loss."""
    if which is LossMask.answers:
        return next_tokens(batch) != IGNORED
    if which is LossMask.all:
        return torch.ones_like(batch.llm_ids, dtype=torch.bool)
    return _is_real(batch, batch.llm_ids, batch.llm_lengths)


def layer_loss_mask(batch: Batch, which: LossMask, num_tokens: int) -> Bool[Tensor, "B T"] | None:
    """The positions that enter the loss of a layer with `num_tokens` inputs; None for all of them."""
    if which is LossMask.all:
        return None
    if num_tokens == batch.llm_ids.shape[1]:
        return loss_mask(batch, which)
    assert which is LossMask.non_padding, "a sequence of patches has no answers; the configuration is refused"
    return _is_real(batch, batch.embedding_ids, batch.embedding_lengths)


def _packing(lengths: Int[Tensor, " C"]) -> Packing:
    return Packing.of(lengths.tolist(), lengths.device)


def _is_real(batch: Batch, ids: Int[Tensor, "B T"], lengths: Int[Tensor, " C"]) -> Bool[Tensor, "B T"]:
    if batch.is_packed:
        return torch.ones_like(ids, dtype=torch.bool)
    return torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]
