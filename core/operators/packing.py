"""Packed sequences: behind each other in the one row of a batch, so that no position is padding."""

# Letters: S sequences, T tokens of all of them.

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch
from jaxtyping import Int
from torch import Tensor

from lab.core.errors import InputError


@dataclass(frozen=True, slots=True)
class Packing:
    """Where packed sequences begin and end. None of them sees another, and each one's positions begin at 0.

    Attributes:
        cu_seqlens: the first token of every sequence, then T, as the operators take them.
        positions: of every token in its sequence.
        lengths: tokens of every sequence.
    """

    cu_seqlens: Int[Tensor, " S1"]
    positions: Int[Tensor, " T"]
    lengths: tuple[int, ...]

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device) -> "Packing":
        """The packing of sequences with so many tokens.

        Raises:
            InputError: if one is empty, or there is none.
        """
        if not lengths or min(lengths) < 1:
            raise InputError(f"packed sequences have {list(lengths)} tokens but each must have 1 or more")
        cu_seqlens = torch.tensor([0, *accumulate(lengths)], device=device)
        positions = torch.cat([torch.arange(length, device=device) for length in lengths])
        return cls(cu_seqlens, positions, tuple(lengths))

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        return max(self.lengths)

    def slices(self) -> Iterator[slice]:
        """The tokens of each sequence."""
        return (slice(first, stop) for first, stop in pairwise([0, *accumulate(self.lengths)]))
