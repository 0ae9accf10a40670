"""Random numbers by name: one seed, and an independent stream for every purpose and index.

A stream depends on the seed, its purpose and its indices alone, never on what was drawn before. A new purpose, another
replicate or a further grid point therefore leaves every other number as it was; work may run in any order or process.
"""

import zlib
from dataclasses import dataclass

import numpy as np
from lab.core.errors import InputError


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

    def _sequence(self, purpose: str, indices: tuple[int, ...]) -> np.random.SeedSequence:
        # crc32 and not hash(): Python's hash of a string changes from process to process
        return np.random.SeedSequence(self.seed, spawn_key=(zlib.crc32(purpose.encode()), *indices))
