"""Samples, batches of samples, and the accuracy of predictions on a batch."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from numpy import ndarray
from torch import Tensor

from lab.core.data.chat_template import IGNORED, Conversation
from lab.core.data.tiling import normalize

# Letters: N tiles, S side of a tile in pixels, B samples, T tokens of the language model, E tokens of the embedding.

PADDING_ID = 0


@dataclass(frozen=True, slots=True)
class Sample:
    """Tiles and token ids of one sample, and the type of each of its questions."""

    tiles: UInt8[ndarray, "N S S 3"]
    conversation: Conversation
    kinds: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """Position of an answer in a batch, and the type of its question."""

    row: int
    start: int
    stop: int
    kind: str


@dataclass(frozen=True, slots=True)
class Batch:
    """Padded samples.

    Attributes:
        pixel_values: tiles of all samples, in the order of their tokens.
        embedding_ids: what the embedding reads, padded on the right with id 0.
        llm_ids: what the language model reads, padded in the same way.
        labels: `llm_ids` at answer positions, `IGNORED` elsewhere; not shifted.
        embedding_lengths: tokens of each sample in `embedding_ids`.
        llm_lengths: tokens of each sample in `llm_ids` and `labels`.
        answers: positions of the answers in `llm_ids`.
    """

    pixel_values: Float[Tensor, "N 3 S S"]
    embedding_ids: Int64[Tensor, "B E"]
    llm_ids: Int64[Tensor, "B T"]
    labels: Int64[Tensor, "B T"]
    embedding_lengths: Int64[Tensor, " B"]
    llm_lengths: Int64[Tensor, " B"]
    answers: tuple[Answer, ...]

    def to(self, device: torch.device) -> "Batch":
        """The batch with its tensors on a device."""
        tensors = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "answers"}
        return replace(self, **{name: tensor.to(device) for name, tensor in tensors.items()})


def is_held_out(key: bytes, share: float) -> bool:
    """Whether a sample is held out, decided by a hash of its key, so that it does not depend on other samples."""
    digest = hashlib.blake2b(key, digest_size=8).digest()
    return int.from_bytes(digest, "big") < share * 2**64


def collate(samples: Sequence[Sample]) -> Batch:
    """One batch of some samples."""
    conversations = [sample.conversation for sample in samples]
    answers = tuple(
        Answer(row, start, stop, kind)
        for row, sample in enumerate(samples)
        for (start, stop), kind in zip(sample.conversation.answers, sample.kinds, strict=True)
    )
    return Batch(
        normalize(np.concatenate([sample.tiles for sample in samples])),
        _padded([conversation.embedding_ids for conversation in conversations], PADDING_ID),
        _padded([conversation.llm_ids for conversation in conversations], PADDING_ID),
        _padded([conversation.labels for conversation in conversations], IGNORED),
        torch.tensor([len(conversation.embedding_ids) for conversation in conversations]),
        torch.tensor([len(conversation.llm_ids) for conversation in conversations]),
        answers,
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


def _padded(rows: Sequence[Int64[ndarray, " _"]], filling: int) -> Int64[Tensor, "B T"]:
    padded = np.full((len(rows), max(map(len, rows))), filling)
    for row, values in enumerate(rows):
        padded[row, : len(values)] = values
    return torch.from_numpy(padded)
