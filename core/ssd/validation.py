"""Arguments and result of the SSD operator; one check for all backends, cheap enough for every call."""

# Letters: B batch, T tokens, H heads, G groups, P head_dim, N state_dim, S sequences.

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lab.core.errors import InputError

_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
_INTEGERS = (torch.int32, torch.int64)

# above this, softplus(x) equals x in float64; torch's default threshold of 20 suffices for float32 only
SOFTPLUS_THRESHOLD = 40.0


class SsdOutput(NamedTuple):
    """Result of the operator.

    Attributes:
        y: output of every token, in the dtype of x.
        final_state: the state after the last token of every sequence, in the dtype of the computation.
    """

    y: Float[Tensor, "B T H P"]
    final_state: Float[Tensor, "S H P N"]


def computing_dtype(x: Tensor) -> torch.dtype:
    """float64 for float64 inputs, else float32: 16-bit sums over thousands of tokens lose too much precision."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def check_arguments(
    x: Float[Tensor, "B T H P"],
    dt: Float[Tensor, "B T H"],
    A: Float[Tensor, " H"],
    B: Float[Tensor, "B T G N"],
    C: Float[Tensor, "B T G N"],
    *,
    D: Float[Tensor, "..."] | None,
    dt_bias: Float[Tensor, " H"] | None,
    chunk_size: int | None,
    initial_state: Float[Tensor, "S H P N"] | None,
    cu_seqlens: Int[Tensor, " S1"] | None,
) -> None:
    """Reject arguments that do not define a valid SSD problem.

    Raises:
        InputError: naming argument, shape, dtype or device, what was expected, and the fix.
    """
    for name, given, axes in (("x", x, "[B, T, H, P]"), ("B", B, "[B, T, G, N]")):
        if given.ndim != 4 or 0 in given.shape[2:]:
            raise InputError(
                f"{name} has shape {tuple(given.shape)} but must be {axes}, the last two 1 or more; reshape it"
            )
    batch, num_tokens, num_heads, head_dim = x.shape
    num_groups, state_dim = B.shape[2:]
    if num_heads % num_groups:
        raise InputError(
            f"B has {num_groups} groups but x has {num_heads} heads; give a number of groups that divides the heads"
        )
    if x.dtype not in _DTYPES:
        raise InputError(f"x has dtype {x.dtype} but must be float32, float64, bfloat16 or float16; cast it")
    num_sequences = batch if cu_seqlens is None else count_sequences(cu_seqlens, batch, num_tokens)
    expected: tuple[tuple[str, Tensor | None, tuple[int, ...]], ...] = (
        ("dt", dt, (batch, num_tokens, num_heads)),
        ("A", A, (num_heads,)),
        ("B", B, (batch, num_tokens, num_groups, state_dim)),
        ("C", C, (batch, num_tokens, num_groups, state_dim)),
        ("D", D, (num_heads, head_dim) if D is not None and D.ndim == 2 else (num_heads,)),
        ("dt_bias", dt_bias, (num_heads,)),
        ("initial_state", initial_state, (num_sequences, num_heads, head_dim, state_dim)),
    )
    widest = computing_dtype(x)
    for name, tensor, shape in expected:
        if tensor is None:
            continue
        if tensor.shape != shape:
            raise InputError(f"{name} has shape {tuple(tensor.shape)} but must have shape {shape}; reshape it")
        if tensor.device != x.device:
            raise InputError(f"{name} is on {tensor.device} but x is on {x.device}; move one to the other's device")
        if name in ("B", "C"):
            if tensor.dtype != x.dtype:
                raise InputError(f"{name} has dtype {tensor.dtype} but x has {x.dtype}; cast one to the other's")
        elif tensor.dtype not in _DTYPES or (tensor.dtype == torch.float64 and widest != torch.float64):
            raise InputError(
                f"{name} has dtype {tensor.dtype} but the computation is in {widest}; cast {name} to {widest}"
            )
    if chunk_size is not None and (type(chunk_size) is not int or chunk_size < 1):
        raise InputError(f"chunk_size={chunk_size!r} must be a whole number of 1 or more; give an int or None")


def sequence_starts(cu_seqlens: Int[Tensor, " S1"] | None) -> tuple[int, ...] | None:
    """The boundaries of packed sequences as a list of ints; None without packing."""
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
