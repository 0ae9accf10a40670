"""The gated delta rule (Yang, Kautz and Hatamizadeh 2024): one signature, several backends.

`reference` computes the recurrence token by token, by definition. `chunked` is fast and runs everywhere. `fla` uses the
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
    head (Yang, Kautz and Hatamizadeh 2024, arXiv 2412.06464, equation 10). The state has the paper's layout: a row for
    each value channel, a column for each key channel. Differentiable once in every tensor except `cu_seqlens`, also
    through the final state.

    g and beta define H. The head counts of q, k and v divide H, and consecutive heads share one: head h reads head
    h // (H // Hk) of k. Grouped-query attention has Hk = Hv < Hq = H, Qwen3-Next has Hq = Hk < Hv = H. Shared heads are
    not copied.

    Args:
        q: queries; float32, float64, or 16-bit with float32 accumulation.
        k: keys, in the dtype of q. The caller should keep them at unit length and beta in [0, 1] (or up to 2), so that
            the state cannot grow.
        v: values, in the dtype of q.
        g: log decay of every token, at most 0.
        beta: write strength: the fraction of the value stored under a key that the token replaces.
        scale: factor of the output; attention uses K**-0.5.
        chunk_size: tokens per chunk; affects speed and rounding only. None for the fastest measured size.
        initial_state: S before the first token, zero by default; one for every row of the batch, or for every packed
            sequence.
        cu_seqlens: start of each packed sequence, then T, for a batch of one; sequences are independent. Its values are
            read on the host, which synchronises with a GPU.
        backend: "auto", a name, or the result of `lab.core.operators.backends.resolve` for "delta_rule".

    Raises:
        InputError: if shapes, dtypes or devices do not match.
        BackendError: if the requested backend cannot run.
    """
    check_arguments(
        q, k, v, g, beta, scale=scale, chunk_size=chunk_size, initial_state=initial_state, cu_seqlens=cu_seqlens
    )
    implementation = resolve("delta_rule", backend, q.device, q.dtype).load()
    output: DeltaRuleOutput = implementation(
        q, k, v, g, beta, scale=scale, chunk_size=chunk_size, initial_state=initial_state, cu_seqlens=cu_seqlens
    )
    return output
