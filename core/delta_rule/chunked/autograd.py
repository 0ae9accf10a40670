"""The gated delta rule in chunks: one triangular system per chunk, one state between chunks.

Section 3.3 of the paper, with the WY form solved as a triangular system. Two tiers compute the same result: `native` in
C++ on the CPU, if a compiler is found, and `torch` everywhere. Both save only the inputs for the backward pass, which
recomputes states and written values.
"""

# Letters: B batch, T tokens, H heads, Hq, Hk, Hv heads of q, k and v, K key_dim, V value_dim, S sequences.

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lab.core.delta_rule.chunked import native, portable
from lab.core.delta_rule.chunked.inputs import Gradients, Inputs
from lab.core.delta_rule.validation import DeltaRuleOutput
from lab.core.errors import InputError
from lab.core.ssd.validation import computing_dtype, sequence_starts


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
) -> DeltaRuleOutput:
    """As `lab.core.delta_rule.gated_delta_rule`."""
    dtype = computing_dtype(q)
    y, final_state = _Chunked.apply(  # type: ignore[no-untyped-call]
        choose_tier(q.device).tier,
        chunk_size,
        sequence_starts(cu_seqlens),
        float(scale),
        q.to(dtype),
        k.to(dtype),
        v.to(dtype),
        g.to(dtype),
        beta.to(dtype),
        None if initial_state is None else initial_state.to(dtype),
    )
    return DeltaRuleOutput(y.to(v.dtype), final_state)


class _Chunked(torch.autograd.Function):
    """Saves only its inputs; the backward pass recomputes everything else."""

    @staticmethod
    def forward(
        ctx: Any,
        tier: Tier,
        chunk_size: int | None,
        starts: tuple[int, ...] | None,
        scale: float,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        g: Tensor,
        beta: Tensor,
        initial_state: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(q, k, v, g, beta, initial_state)
        ctx.tier, ctx.chunk_size, ctx.starts, ctx.scale = tier, chunk_size, starts, scale
        return tier.forward(Inputs(q, k, v, g, beta, initial_state, starts, scale), chunk_size)

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor | None, grad_final_state: Tensor | None) -> tuple[Any, ...]:
        # otherwise a second derivative would silently be zero
        if torch.is_grad_enabled():
            raise InputError(
                "create_graph=True asks for a second derivative, which the chunked gated delta rule does not have; "
                "leave it out or use backend='reference'"
            )
        q, k, v, g, beta, initial_state = ctx.saved_tensors
        inputs = Inputs(q, k, v, g, beta, initial_state, ctx.starts, ctx.scale)
        if grad_y is None:
            grad_y = v.new_zeros(()).expand(inputs.output_shape)
        return None, None, None, None, *ctx.tier.backward(inputs, ctx.chunk_size, grad_y, grad_final_state)
