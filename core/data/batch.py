"""Batches of samples as tensors, and the accuracy of predictions on a batch."""

from collections import defaultdict
from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Float, Float32, Int64, UInt8
from numpy import ndarray
from torch import Tensor

from lab.core.data.bad_samples import LeftOut
from lab.core.data.picture_format import IMAGENET, Colours
from lab.core.data.sample import Answer, BatchArrays

# Letters: N tiles, S side of a tile in pixels, C samples, B rows, T tokens of the language model, E tokens of the
# embedding.


@dataclass(frozen=True, slots=True)
class Batch:
    """Samples: one a row and padded on the right, or packed, behind each other in one row.

    Attributes:
        pixel_values: tiles of all samples, in the order of their tokens.
        embedding_ids: what the embedding reads; padding has id 0.
        llm_ids: what the language model reads, likewise.
        labels: `llm_ids` at answer positions, `IGNORED` elsewhere; not shifted.
        embedding_lengths: tokens of each sample in `embedding_ids`.
        llm_lengths: tokens of each sample in `llm_ids` and `labels`.
        answers: positions of the answers in `llm_ids`.
        left_out: samples that were left out on the way to these.
        is_packed: whether the samples are packed.
    """

    pixel_values: Float[Tensor, "N 3 S S"]
    embedding_ids: Int64[Tensor, "B E"]
    llm_ids: Int64[Tensor, "B T"]
    labels: Int64[Tensor, "B T"]
    embedding_lengths: Int64[Tensor, " C"]
    llm_lengths: Int64[Tensor, " C"]
    answers: tuple[Answer, ...]
    left_out: tuple[LeftOut, ...] = ()
    is_packed: bool = False

    def to(self, device: torch.device) -> "Batch":
        """The batch with its tensors on a device."""
        others = ("answers", "left_out", "is_packed")
        tensors = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in others}
        return replace(self, **{name: tensor.to(device) for name, tensor in tensors.items()})


def normalize(tiles: UInt8[ndarray, "N S S 3"], colours: Colours = IMAGENET) -> Float32[Tensor, "N 3 S S"]:
    """Scale pixels to [0, 1] and normalise them, bit for bit as the image processors of transformers on Pillow do."""
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (colours.mean, colours.std))
    num_tiles, height, width, num_colours = tiles.shape
    # each colour in one piece before the arithmetic, whose loops would else be three numbers long
    pixels = torch.empty(num_tiles, num_colours, height, width)
    pixels.copy_(torch.tensor(tiles).permute(0, 3, 1, 2))
    return pixels.div_(255).sub_(mean).div_(std)


def to_tensors(arrays: BatchArrays) -> Batch:
    """A batch whose token ids share the memory of the arrays."""
    return Batch(
        normalize(arrays.tiles, arrays.colours),
        torch.from_numpy(arrays.embedding_ids),
        torch.from_numpy(arrays.llm_ids),
        torch.from_numpy(arrays.labels),
        torch.from_numpy(arrays.embedding_lengths),
        torch.from_numpy(arrays.llm_lengths),
        arrays.answers,
        arrays.left_out,
        arrays.is_packed,
    )


def count_right(predicted: Int64[Tensor, "B T"], batch: Batch) -> dict[str, tuple[int, int]]:
    """Number of exactly correct answers, and number of answers, for each type of question.

    An answer is correct if greedy decoding after its question, given the earlier answers, writes it and ends the turn.

    Args:
        predicted: at each position the most likely next token.
        batch: the targets.
    """
    counts: defaultdict[str, tuple[int, int]] = defaultdict(lambda: (0, 0))
    is_right = (predicted[:, :-1] == batch.llm_ids[:, 1:]).numpy(force=True)
    for answer in batch.answers:
        right, total = counts[answer.kind]
        counts[answer.kind] = right + bool(is_right[answer.row, answer.start - 1 : answer.stop - 1].all()), total + 1
    return dict(counts)
