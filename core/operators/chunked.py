"""What operators that work in chunks share: a choice between C++ and torch, and a hand-written backward pass.

Only the inputs are saved for the backward pass, which recomputes everything else: memory is linear in the tokens.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lab.core.errors import InputError

# a NamedTuple whose first fields are tensors or None, and whose last two are no tensors
Inputs = Any
# a NamedTuple with the tensors of the inputs, in the same order
Gradients = Any

_NUM_SETTINGS = 2


@dataclass(frozen=True, slots=True)
class Tier:
    """One way to compute an operator and its gradients.

    Attributes:
        name: "native" or "torch".
        forward: (inputs, chunk_size) to output and final state.
        backward: (inputs, chunk_size, gradient of output, gradient of final state) to gradients of the inputs.
    """

    name: str
    forward: Callable[[Inputs, int | None], tuple[Tensor, Tensor]]
    backward: Callable[[Inputs, int | None, Tensor, Tensor | None], Gradients]


class TierChoice(NamedTuple):
    """The tier used on a device.

    Attributes:
        tier: the tier.
        why_not_native: why it is not the native one, with the fix; None if it is.
    """

    tier: Tier
    why_not_native: str | None


def choose_tier(
    native: Tier, fallback: Tier, device: torch.device, why_not_native: Callable[[], str | None]
) -> TierChoice:
    """The native tier on a CPU if it can be built, which happens on first use; else the other one."""
    if device.type != "cpu":
        return TierChoice(fallback, f"it runs on the CPU, not on {device}")
    reason = why_not_native()
    return TierChoice(native if reason is None else fallback, reason)


def run_chunked(operator: str, tier: Tier, inputs: Inputs, chunk_size: int | None) -> tuple[Tensor, Tensor]:
    """Output and final state, with gradients by the tier's backward pass.

    Args:
        operator: its name in an error.
        tier: what computes it.
        inputs: validated; also has `output_shape`.
        chunk_size: tokens per chunk; None for the tier's own choice.

    Raises:
        InputError: in a backward pass that is to be differentiated itself.
    """
    tensors, settings = inputs[:-_NUM_SETTINGS], inputs[-_NUM_SETTINGS:]
    result: tuple[Tensor, Tensor] = _Chunked.apply(  # type: ignore[no-untyped-call]
        operator, tier, type(inputs), settings, chunk_size, *tensors
    )
    return result


class _Chunked(torch.autograd.Function):
    """Saves only its inputs."""

    @staticmethod
    def forward(
        ctx: Any,
        operator: str,
        tier: Tier,
        kind: Callable[..., Inputs],
        settings: tuple[Any, ...],
        chunk_size: int | None,
        *tensors: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors)
        ctx.operator, ctx.tier, ctx.kind, ctx.settings, ctx.chunk_size = operator, tier, kind, settings, chunk_size
        return tier.forward(kind(*tensors, *settings), chunk_size)

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor | None, grad_final_state: Tensor | None) -> tuple[Any, ...]:
        # otherwise a second derivative would silently be zero
        if torch.is_grad_enabled():
            raise InputError(
                f"create_graph=True asks for a second derivative, which the {ctx.operator} does not have; "
                "leave it out or use backend='reference'"
            )
        inputs = ctx.kind(*ctx.saved_tensors, *ctx.settings)
        if grad_y is None:
            grad_y = inputs[0].new_zeros(()).expand(inputs.output_shape)
        return (None,) * 5 + tuple(ctx.tier.backward(inputs, ctx.chunk_size, grad_y, grad_final_state))
