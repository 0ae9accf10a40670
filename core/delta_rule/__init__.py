"""The gated delta rule (Yang, Kautz and Hatamizadeh 2024): one signature, several implementations.

`reference` is the definition, one token after the other. `chunked` is the fast one that runs everywhere. `fla` are the
GPU kernels of flash-linear-attention.
"""

# Letters: B batch, T tokens, H heads, Hq, Hk, Hv heads of q, k and v, K key_dim, V value_dim, S sequences.

from jaxtyping import Float, Int
from torch import Tensor

from lab.core.delta_rule.validation import DeltaRuleOutput, check_arguments
from lab.core.operators.backends import Backend, resolve

__all__ = ["DeltaRuleOutput", "gated_delta_rule"]


def gated_delta_rule(
    q: Float[Tensor, "B T Hq K"],
    k: Float[Tensor, "B T Hk K"],
    v: Float[Tensor, "B T Hv V"],
    g: Float[Tensor, "B T H"],
    beta: Float[Tensor, "B T H"],
    *,
    scale: float = 1.0,
    chunk_size: int | None = None,
    initial_state: Float[Tensor, "S H V K"] | None = None,
    cu_seqlens: Int[Tensor, " S1"] | None = None,
    backend: str | Backend = "auto",
) -> DeltaRuleOutput:
    """Gated delta rule as a sequence map, linear in T.

    Computes S[t] = exp(g[t]) S[t-1] (I - beta[t] k[t] k[t]ᵀ) + beta[t] v[t] k[t]ᵀ and y[t] = scale S[t] q[t], head by
    head (Yang, Kautz and Hatamizadeh 2024, arXiv 2412.06464, equation 10). The state keeps the paper's layout: a row
    for each value channel, a column for each key channel. Differentiable once in every tensor but `cu_seqlens`, also
    through the final state.

    g and beta define H. The heads of q, k and v are each a divisor of H, and consecutive heads share one: head h reads
    head h // (H // Hk) of k. So Hk = Hv < Hq = H is grouped-query attention's way of sharing, and Hq = Hk < Hv = H that
    of Qwen3-Next. No copies are made of what is shared.

    Args:
        q: queries; float32, float64, or 16 bits with sums in float32.
        k: keys, in the dtype of q. With unit keys and beta in [0, 1] (or up to 2) the state cannot grow; that is the
            caller's business.
        v: values, in the dtype of q.
        g: logarithm of the decay of every token, at most 0.
        beta: share of what the state holds for a key that the token's value replaces.
        scale: factor of the output. Attention's is K**-0.5.
        chunk_size: tokens per chunk; changes speed and rounding, not the result. None for what was measured fastest.
        initial_state: S before the first token, zero if not given. There is one for every row of the batch, or for
            every packed sequence.
        cu_seqlens: packed sequences, in a batch of one: where each begins, then T. They do not see each other. Its
            values are read on the host, which waits for a GPU.
        backend: "auto", a name, or what `lab.core.operators.backends.resolve` gave for "delta_rule".

    Raises:
        InputError: if shapes, dtypes or devices do not fit.
        BackendError: if the implementation that was asked for cannot run.
    """
    check_arguments(
        q, k, v, g, beta, scale=scale, chunk_size=chunk_size, initial_state=initial_state, cu_seqlens=cu_seqlens
    )
    implementation = resolve("delta_rule", backend, q.device, q.dtype).load()
    output: DeltaRuleOutput = implementation(
        q, k, v, g, beta, scale=scale, chunk_size=chunk_size, initial_state=initial_state, cu_seqlens=cu_seqlens
    )
    return output
