"""Arguments and result of the SSD operator; one check for all backends, cheap enough for every call."""

# Letters: B batch, T tokens, H heads, G groups, P head_dim, N state_dim, S sequences.

from typing import NamedTuple

from jaxtyping import Float, Int
from torch import Tensor

from lab.core.errors import InputError
from lab.core.operators.arguments import check_chunk_size, check_floating, check_operands
from lab.core.operators.sequences import count_sequences

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
    check_floating("x", x)
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
    check_operands(("x", x), expected, same_dtype=("B", "C"))
    check_chunk_size(chunk_size)
