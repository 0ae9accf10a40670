"""Mamba-2's state-space operator (SSD; Dao and Gu 2024): one signature, several backends.

`reference` computes the recurrence token by token, by definition. `chunked` is fast and runs everywhere. `mamba_ssm`
uses the official GPU kernels.
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
        x: float32, float64, or 16-bit with float32 accumulation.
        dt: step sizes, positive; before bias and softplus if `dt_softplus`.
        A: log decay rates, negative.
        B: input maps, in the dtype of x; H must be a multiple of G, and consecutive heads share a group.
        C: output maps, like B.
        D: weight of the skip connection.
        dt_bias: added to `dt`.
        dt_softplus: whether the step size is softplus(dt + dt_bias).
        chunk_size: tokens per chunk; affects speed and rounding only. None for the fastest measured size.
        initial_state: h before the first token, zero by default. S is the batch, or the number of packed sequences.
        cu_seqlens: start of each packed sequence, then T, for a batch of one; sequences are independent. Its values are
            read on the host, which synchronises with a GPU.
        backend: "auto", a name, or the result of `lab.core.operators.backends.resolve`.

    Raises:
        InputError: if shapes, dtypes or devices do not match.
        BackendError: if the requested backend cannot run.
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
