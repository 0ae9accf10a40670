"""Samples that are their own number, from sources that another process can import."""

import os
import sys
import time

import numpy as np

from lab.core.data.chat_template import IGNORED, Conversation
from lab.core.data.picture_format import IMAGENET
from lab.core.data.sample import Sample
from lab.core.errors import InputError


def sample(index: int, length: int = 3, *, num_tiles: int = 1, embedding_length: int | None = None) -> Sample:
    """`index` in every place; the last token is the answer."""
    ids = np.full(length, index + 1)
    labels = np.full(length, IGNORED)
    labels[-1] = index + 1
    conversation = Conversation(np.full(embedding_length or length, index + 1), ids, labels, ((length - 1, length),))
    tiles = np.full((num_tiles, 2, 2, 3), index % 256, np.uint8)
    return Sample(tiles, conversation, (f"kind {index % 2}",), IMAGENET)


class Endless:
    """Sample i is long if i + 1 is divisible by `long`, broken if it is by `broken`."""

    def __init__(self, *, broken: int = 1000, long: int = 1000) -> None:
        self.broken, self.long = broken, long

    def __getitem__(self, index: int) -> Sample:
        if (index + 1) % self.broken == 0:
            raise InputError(f"line {index} is not valid JSON")
        return sample(index, 9 if (index + 1) % self.long == 0 else 3)


class Finite(Endless):
    def __len__(self) -> int:
        return 11


class Faulty(Endless):
    """A bug at sample 4."""

    def __getitem__(self, index: int) -> Sample:
        if index == 4:
            raise ZeroDivisionError("by sample 4")
        return sample(index)


class Surroundings(Endless):
    """Samples that say where they were made: whether torch is loaded, OpenMP threads, id of the process."""

    def __getitem__(self, index: int) -> Sample:
        made = sample(index)
        made.conversation.llm_ids[:] = "torch" in sys.modules, int(os.environ["OMP_NUM_THREADS"]), os.getpid()
        return made


class Slow(Endless):
    """A sample takes minutes."""

    def __getitem__(self, index: int) -> Sample:
        time.sleep(300)
        return sample(index)


class Unreadable(Endless):
    """It can be sent, but not read in another process."""

    def __reduce__(self) -> "tuple[object, ...]":
        return _only_in, (os.getpid(),)


def _only_in(process: int) -> Unreadable:
    if os.getpid() != process:
        raise RuntimeError("made for another process")
    return Unreadable()
