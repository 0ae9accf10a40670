"""Samples, and a batch of them as arrays.

A process that only makes samples loads this without the seconds and the memory that torch takes; see `prefetch`.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64, UInt8
from numpy import ndarray

from lab.core.data.bad_samples import LeftOut
from lab.core.data.chat_template import IGNORED, Conversation
from lab.core.data.picture_format import IMAGENET, Colours

# Letters: N tiles, S side of a tile in pixels, C samples, B rows, T tokens of the language model, E tokens of the
# embedding.

PADDING_ID = 0


@dataclass(frozen=True, slots=True)
class Sample:
    """Tiles and token ids of one sample, the type of each of its questions, and how its colours are normalised."""

    tiles: UInt8[ndarray, "N S S 3"]
    conversation: Conversation
    kinds: tuple[str, ...]
    colours: Colours


@dataclass(frozen=True, slots=True)
class Answer:
    """Position of an answer in a batch, and the type of its question."""

    row: int
    start: int
    stop: int
    kind: str


@dataclass(frozen=True, slots=True)
class BatchArrays:
    """Padded or packed samples as arrays; see `Batch`, which has the pixels normalised."""

    tiles: UInt8[ndarray, "N S S 3"]
    embedding_ids: Int64[ndarray, "B E"]
    llm_ids: Int64[ndarray, "B T"]
    labels: Int64[ndarray, "B T"]
    embedding_lengths: Int64[ndarray, " C"]
    llm_lengths: Int64[ndarray, " C"]
    answers: tuple[Answer, ...]
    left_out: tuple[LeftOut, ...] = ()
    is_packed: bool = False
    colours: Colours = IMAGENET


def is_held_out(key: bytes, share: float) -> bool:
    """Whether a sample is held out, decided by a hash of its key, so that it does not depend on other samples."""
    digest = hashlib.blake2b(key, digest_size=8).digest()
    return int.from_bytes(digest, "big") < share * 2**64


def pad(samples: Sequence[Sample], left_out: Sequence[LeftOut] = ()) -> BatchArrays:
    """Some samples, padded on the right to the longest, and those that were left out on the way to them."""
    conversations = [sample.conversation for sample in samples]
    answers = tuple(
        Answer(row, start, stop, kind)
        for row, sample in enumerate(samples)
        for (start, stop), kind in zip(sample.conversation.answers, sample.kinds, strict=True)
    )
    return BatchArrays(
        np.concatenate([sample.tiles for sample in samples]),
        _padded([conversation.embedding_ids for conversation in conversations], PADDING_ID),
        _padded([conversation.llm_ids for conversation in conversations], PADDING_ID),
        _padded([conversation.labels for conversation in conversations], IGNORED),
        np.array([len(conversation.embedding_ids) for conversation in conversations], np.int64),
        np.array([len(conversation.llm_ids) for conversation in conversations], np.int64),
        answers,
        tuple(left_out),
        colours=_colours(samples),
    )


def pack(samples: Sequence[Sample], left_out: Sequence[LeftOut] = ()) -> BatchArrays:
    """Some samples behind each other in one row, and those that were left out on the way to them."""
    conversations = [sample.conversation for sample in samples]
    firsts = np.cumsum([0, *(len(conversation.llm_ids) for conversation in conversations)]).tolist()
    answers = tuple(
        Answer(0, first + start, first + stop, kind)
        for first, sample in zip(firsts, samples, strict=False)
        for (start, stop), kind in zip(sample.conversation.answers, sample.kinds, strict=True)
    )
    return BatchArrays(
        np.concatenate([sample.tiles for sample in samples]),
        np.concatenate([conversation.embedding_ids for conversation in conversations], dtype=np.int64)[None],
        np.concatenate([conversation.llm_ids for conversation in conversations], dtype=np.int64)[None],
        np.concatenate([conversation.labels for conversation in conversations], dtype=np.int64)[None],
        np.array([len(conversation.embedding_ids) for conversation in conversations], np.int64),
        np.array([len(conversation.llm_ids) for conversation in conversations], np.int64),
        answers,
        tuple(left_out),
        is_packed=True,
        colours=_colours(samples),
    )


def _colours(samples: Sequence[Sample]) -> Colours:
    """Mean and deviation of colours that all samples share, since a batch is normalised as a whole."""
    first = samples[0].colours
    assert all(sample.colours == first for sample in samples), "a source gives each sample prompt_format.colours"
    return first


def _padded(rows: Sequence[Int64[ndarray, " _"]], filling: int) -> Int64[ndarray, "B T"]:
    padded = np.full((len(rows), max(map(len, rows))), filling, np.int64)
    for row, values in enumerate(rows):
        padded[row, : len(values)] = values
    return padded
