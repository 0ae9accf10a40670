"""Mamba-2's state-space operator (Dao and Gu 2024): one signature, several implementations.

`reference` is the definition, one token after the other. `chunked` is the fast one that runs everywhere. `mamba_ssm`
are the official GPU kernels.
"""

# Letters: B batch, T tokens, H heads, G groups, P head_dim, N state_dim, S sequences.

from jaxtyping import Float, Int
from torch import Tensor

from lab.core.operators.backends import Backend, resolve
from lab.core.ssd.validation import SsdOutput, check_arguments

__all__ = ["SsdOutput", "ssd"]


def ssd(
    x: Float[Tensor, "B T H P"],
    dt: Float[Tensor, "B T H"],
    A: Float[Tensor, " H"],
    B: Float[Tensor, "B T G N"],
    C: Float[Tensor, "B T G N"],
    *,
    D: Float[Tensor, " H"] | Float[Tensor, "H P"] | None = None,
    dt_bias: Float[Tensor, " H"] | None = None,
    dt_softplus: bool = False,
    chunk_size: int | None = None,
    initial_state: Float[Tensor, "S H P N"] | None = None,
    cu_seqlens: Int[Tensor, " S1"] | None = None,
    backend: str | Backend = "auto",
) -> SsdOutput:
    """Selective state space as a sequence map, linear in T.

    Computes h[t] = exp(dt[t] A) h[t-1] + dt[t] x[t] ⊗ B[t] and y[t] = C[t] · h[t] + D x[t], head by head (Dao and Gu
    2024, equation 1 with the discretisation of section 6). Differentiable once in every tensor, also through the final
    state.

    Args:
        x: float32, float64, or 16 bits with sums in float32.
        dt: step sizes, positive; before bias and softplus if `dt_softplus`.
        A: log decay rates, negative.
        B: input maps, in the dtype of x; H must be a multiple of G, and consecutive heads share a group.
        C: output maps, like B.
        D: weight of the skip connection.
        dt_bias: added to `dt`.
        dt_softplus: whether the step size is softplus(dt + dt_bias).
        chunk_size: tokens per chunk; changes speed and rounding, not the result. None for what was measured fastest.
        initial_state: h before the first token, zero if not given. S is the batch, or the number of packed sequences.
        cu_seqlens: packed sequences, in a batch of one: where each begins, then T. They do not see each other. Its
            values are read on the host, which waits for a GPU.
        backend: "auto", a name, or what `lab.core.operators.backends.resolve` gave.

    Raises:
        InputError: if shapes, dtypes or devices do not fit.
        BackendError: if the implementation that was asked for cannot run.
    """
    check_arguments(
        x,
        dt,
        A,
        B,
        C,
        D=D,
        dt_bias=dt_bias,
        chunk_size=chunk_size,
        initial_state=initial_state,
        cu_seqlens=cu_seqlens,
    )
    implementation = resolve("ssd", backend, x.device, x.dtype).load()
    output: SsdOutput = implementation(
        x,
        dt,
        A,
        B,
        C,
        D=D,
        dt_bias=dt_bias,
        dt_softplus=dt_softplus,
        chunk_size=chunk_size,
        initial_state=initial_state,
        cu_seqlens=cu_seqlens,
    )
    return output
