"""The SSD operator in chunks: matrix products inside a chunk, one state between chunks (Dao and Gu 2024, section 6).

Two tiers compute the same result: `native` in C++ on the CPU, if a compiler is found, and `torch` everywhere.
Both work on blocks that fit in the cache, skip the part above the diagonal, and save only the inputs for the backward
pass, which recomputes the states.
"""

# Letters: B batch, T tokens, H heads, G groups, P head_dim, N state_dim, S sequences.

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lab.core.errors import InputError
from lab.core.ssd.chunked import native, portable
from lab.core.ssd.chunked.inputs import Gradients, Inputs
from lab.core.ssd.validation import SsdOutput, computing_dtype, sequence_starts


@dataclass(frozen=True, slots=True)
class Tier:
    """One way to compute the operator and its gradients.

    Attributes:
        name: "native" or "torch".
        forward: (inputs, chunk_size) to output and final state.
        backward: (inputs, chunk_size, gradient of output, gradient of final state) to gradients of the inputs.
    """

    name: str
    forward: Callable[[Inputs, int | None], tuple[Tensor, Tensor]]
    backward: Callable[[Inputs, int | None, Tensor, Tensor | None], Gradients]


NATIVE = Tier("native", native.forward, native.backward)
TORCH = Tier("torch", portable.forward, portable.backward)


class TierChoice(NamedTuple):
    """The tier used on a device.

    Attributes:
        tier: the tier.
        why_not_native: why it is not the native one, with the fix; None if it is.
    """

    tier: Tier
    why_not_native: str | None


def choose_tier(device: torch.device) -> TierChoice:
    """The native tier on a CPU if it can be built, which happens on first use; else the torch tier."""
    if device.type != "cpu":
        return TierChoice(TORCH, f"it runs on the CPU, not on {device}")
    reason = native.why_not()
    return TierChoice(NATIVE if reason is None else TORCH, reason)


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
) -> SsdOutput:
    """As `lab.core.ssd.ssd`."""
    dtype = computing_dtype(x)
    y, final_state = _Chunked.apply(  # type: ignore[no-untyped-call]
        choose_tier(x.device).tier,
        chunk_size,
        sequence_starts(cu_seqlens),
        dt_softplus,
        x.to(dtype),
        dt.to(dtype),
        A.to(dtype),
        B.to(dtype),
        C.to(dtype),
        None if D is None else D.to(dtype),
        None if dt_bias is None else dt_bias.to(dtype),
        None if initial_state is None else initial_state.to(dtype),
    )
    return SsdOutput(y.to(x.dtype), final_state)


class _Chunked(torch.autograd.Function):
    """Saves only its inputs; the backward pass recomputes everything else."""

    @staticmethod
    def forward(
        ctx: Any,
        tier: Tier,
        chunk_size: int | None,
        starts: tuple[int, ...] | None,
        is_softplus: bool,
        x: Tensor,
        dt: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor | None,
        dt_bias: Tensor | None,
        initial_state: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, dt, A, B, C, D, dt_bias, initial_state)
        ctx.tier, ctx.chunk_size, ctx.starts, ctx.is_softplus = tier, chunk_size, starts, is_softplus
        return tier.forward(Inputs(x, dt, A, B, C, D, dt_bias, initial_state, starts, is_softplus), chunk_size)

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor | None, grad_final_state: Tensor | None) -> tuple[Any, ...]:
        # otherwise a second derivative would silently be zero
        if torch.is_grad_enabled():
            raise InputError(
                "create_graph=True asks for a second derivative, which the chunked SSD operator does not have; "
                "leave it out or use backend='reference'"
            )
        x, dt, A, B, C, D, dt_bias, initial_state = ctx.saved_tensors
        inputs = Inputs(x, dt, A, B, C, D, dt_bias, initial_state, ctx.starts, ctx.is_softplus)
        if grad_y is None:
            grad_y = torch.zeros_like(x)
        return None, None, None, None, *ctx.tier.backward(inputs, ctx.chunk_size, grad_y, grad_final_state)
