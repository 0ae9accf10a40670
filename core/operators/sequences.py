"""Sequences packed behind each other in one row of a batch, by the boundaries between them (`cu_seqlens`)."""

from itertools import pairwise

import torch
from jaxtyping import Int
from torch import Tensor

from lab.core.errors import InputError

_INTEGERS = (torch.int32, torch.int64)


def sequence_starts(cu_seqlens: Int[Tensor, " S1"] | None) -> tuple[int, ...] | None:
    """The boundaries of packed sequences as ints; None without packing."""
    return None if cu_seqlens is None else tuple(cu_seqlens.tolist())


def count_sequences(cu_seqlens: Int[Tensor, " S1"], batch: int, num_tokens: int, *, of: str = "x") -> int:
    """The number S of packed sequences; `of` names the tensor with the batch and token axes.

    Raises:
        InputError: if the boundaries do not increase from 0 to the number of tokens, or the batch is not 1.
    """
    if cu_seqlens.ndim != 1 or cu_seqlens.dtype not in _INTEGERS or len(cu_seqlens) == 0:
        raise InputError(
            f"cu_seqlens has shape {tuple(cu_seqlens.shape)} and dtype {cu_seqlens.dtype} but must be one axis of "
            "int32 or int64; give the first token of every sequence, then the number of tokens"
        )
    if batch != 1:
        raise InputError(f"{of} has batch {batch} but packed sequences have batch 1; flatten the batch into the tokens")
    starts = cu_seqlens.tolist()
    if starts[0] != 0 or starts[-1] != num_tokens or starts != sorted(starts):
        raise InputError(
            f"cu_seqlens={starts[:8]}{'...' * (len(starts) > 8)} must rise from 0 to the {num_tokens} tokens of {of}; "
            "give the first token of every sequence, then the number of tokens"
        )
    return len(starts) - 1


def num_sequences(starts: tuple[int, ...] | None, batch: int) -> int:
    """S: the rows of the batch, or the packed sequences between `starts`."""
    return batch if starts is None else len(starts) - 1


def longest_sequence(starts: tuple[int, ...] | None, num_tokens: int) -> int:
    """Tokens of the longest sequence."""
    if starts is None:
        return num_tokens
    return max((stop - start for start, stop in pairwise(starts)), default=0)
