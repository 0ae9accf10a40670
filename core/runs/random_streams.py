"""Named random streams: one seed, and an independent stream for every purpose and index.

A stream depends only on the seed, its purpose and its indices, never on earlier draws. Adding a purpose, a replicate or
a grid point therefore leaves all other numbers unchanged, and work may run in any order or process.
"""

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lab.core.errors import InputError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Seeds:
    """Child streams of one seed.

    Attributes:
        seed: of all streams.
        scope: of the part whose streams these are; see `within`.

    Raises:
        InputError: if the seed is negative.
    """

    seed: int
    scope: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise InputError(f"seed={self.seed} must be a non-negative integer; give 0 or more")

    def within(self, purpose: str, *indices: int) -> "Seeds":
        """The streams of one part, such as one of several problems: independent of those here and of other parts."""
        return Seeds(self.seed, (*self.scope, *_key(purpose, indices)))

    def numpy(self, purpose: str, *indices: int) -> np.random.Generator:
        """A fresh numpy generator for `purpose` and `indices`."""
        return np.random.default_rng(self._sequence(purpose, indices))

    def torch(self, purpose: str, *indices: int) -> "torch.Generator":
        """A fresh torch generator (on the CPU) for `purpose` and `indices`."""
        # a process that only needs numpy avoids the 2 s of importing torch
        import torch  # noqa: PLC0415

        state = self._sequence(purpose, indices).generate_state(1, np.uint64)
        return torch.Generator().manual_seed(int(state[0]))

    def _sequence(self, purpose: str, indices: tuple[int, ...]) -> np.random.SeedSequence:
        return np.random.SeedSequence(self.seed, spawn_key=(*self.scope, *_key(purpose, indices)))


def _key(purpose: str, indices: tuple[int, ...]) -> tuple[int, ...]:
    # crc32, not hash(): Python's string hash differs between processes
    return (zlib.crc32(purpose.encode()), *indices)
