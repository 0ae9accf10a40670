"""Arguments and result of the gated delta rule; one check for all backends, cheap enough for every call."""

# Letters: B batch, T tokens, H heads, Hq, Hk, Hv heads of q, k and v, K key_dim, V value_dim, S sequences.

from typing import NamedTuple

from jaxtyping import Float, Int
from torch import Tensor

from lab.core.errors import InputError
from lab.core.operators.arguments import check_chunk_size, check_floating, check_operands
from lab.core.operators.sequences import count_sequences


class DeltaRuleOutput(NamedTuple):
    """Result of the operator.

    Attributes:
        y: output of every token, in the dtype of v.
        final_state: the state after the last token of every sequence, in the dtype of the computation.
    """

    y: Float[Tensor, "B T H V"]
    final_state: Float[Tensor, "S H V K"]


def check_arguments(
    q: Float[Tensor, "B T Hq K"],
    k: Float[Tensor, "B T Hk K"],
    v: Float[Tensor, "B T Hv V"],
    g: Float[Tensor, "B T H"],
    beta: Float[Tensor, "B T H"],
    *,
    scale: float,
    chunk_size: int | None,
    initial_state: Float[Tensor, "S H V K"] | None,
    cu_seqlens: Int[Tensor, " S1"] | None,
) -> None:
    """Reject arguments that do not define a valid gated delta rule.

    Raises:
        InputError: naming argument, shape, dtype or device, what was expected, and the fix.
    """
    for name, given, axes in (("q", q, "[B, T, Hq, K]"), ("k", k, "[B, T, Hk, K]"), ("v", v, "[B, T, Hv, V]")):
        if given.ndim != 4 or 0 in given.shape[2:]:
            raise InputError(
                f"{name} has shape {tuple(given.shape)} but must be {axes}, the last two 1 or more; reshape it"
            )
    if g.ndim != 3 or g.shape[2] == 0:
        raise InputError(f"g has shape {tuple(g.shape)} but must be [B, T, H] with H 1 or more; reshape it")
    batch, num_tokens, num_heads = g.shape
    for name, given in (("q", q), ("k", k), ("v", v)):
        if num_heads % given.shape[2]:
            raise InputError(
                f"{name} has {given.shape[2]} heads but g has {num_heads}; give a number that divides the heads of g"
            )
    key_dim, value_dim = k.shape[3], v.shape[3]
    check_floating("q", q)
    num_sequences = batch if cu_seqlens is None else count_sequences(cu_seqlens, batch, num_tokens, of="g")
    expected: tuple[tuple[str, Tensor | None, tuple[int, ...]], ...] = (
        ("q", q, (batch, num_tokens, q.shape[2], key_dim)),
        ("k", k, (batch, num_tokens, k.shape[2], key_dim)),
        ("v", v, (batch, num_tokens, v.shape[2], value_dim)),
        ("g", g, (batch, num_tokens, num_heads)),
        ("beta", beta, (batch, num_tokens, num_heads)),
        ("initial_state", initial_state, (num_sequences, num_heads, value_dim, key_dim)),
    )
    check_operands(("q", q), expected, same_dtype=("k", "v"))
    if type(scale) not in (float, int):
        raise InputError(f"scale={scale!r} must be a number; give a float such as K**-0.5")
    check_chunk_size(chunk_size)
