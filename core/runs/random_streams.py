"""Random numbers by name: one seed, and an independent stream for every purpose and index.

A stream depends on the seed, its purpose and its indices alone, never on what was drawn before. A new purpose, another
replicate or a further grid point therefore leaves every other number as it was; work may run in any order or process.
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

    Raises:
        InputError: if the seed is negative.
    """

    seed: int

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise InputError(f"seed={self.seed} must be a non-negative integer")

    def numpy(self, purpose: str, *indices: int) -> np.random.Generator:
        """The numpy stream of `purpose` and `indices`, at its beginning."""
        return np.random.default_rng(self._sequence(purpose, indices))

    def torch(self, purpose: str, *indices: int) -> "torch.Generator":
        """The torch stream (on the CPU) of `purpose` and `indices`, at its beginning."""
        # a process that draws with numpy alone is spared the 2 s that torch takes to load
        import torch  # noqa: PLC0415

        state = self._sequence(purpose, indices).generate_state(1, np.uint64)
        return torch.Generator().manual_seed(int(state[0]))

    def _sequence(self, purpose: str, indices: tuple[int, ...]) -> np.random.SeedSequence:
        # crc32 and not hash(): Python's hash of a string changes from process to process
        return np.random.SeedSequence(self.seed, spawn_key=(zlib.crc32(purpose.encode()), *indices))
