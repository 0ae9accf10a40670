"""Linear layers and products with a weight, computed by the implementation that is fastest here."""

# Letters: I inputs, O outputs, R rows.

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from lab.core.products import current
from lab.core.products.choice import LARGE
from lab.core.products.current import Plan
from lab.core.products.implementations import TORCH, Operation


class Linear(nn.Linear):
    """`torch.nn.Linear`, computed by `linear`: parameters, names and initialisation are the same."""

    def __init__(self, in_features: int, out_features: int, *, bias: bool = True) -> None:
        super().__init__(in_features, out_features, bias=bias)
        self.is_small = in_features * out_features < LARGE

    def forward(self, x: Float[Tensor, "*rows I"]) -> Float[Tensor, "*rows O"]:
        """x W' + b."""
        # asked here first, since a small product takes no longer than a few calls of Python
        state = current.STATE
        if state.is_torch or (self.is_small and state.forced is None):
            return functional.linear(x, self.weight, self.bias)
        return _chosen(x, self.weight, self.bias, self.in_features)


def linear(
    x: Float[Tensor, "*rows I"], weight: Float[Tensor, "O I"], bias: Float[Tensor, " O"] | None = None
) -> Float[Tensor, "*rows O"]:
    """x W' + b, as `torch.nn.functional.linear`.

    Where torch's own implementation is chosen for the output and the gradients, it is that function. Others can be
    differentiated once. The dtype under autocast is that of autocast.

    Raises:
        BackendError: if an implementation was asked for that does not compute this dtype.
    """
    state = current.STATE
    if state.is_torch or (weight.numel() < LARGE and state.forced is None):
        return functional.linear(x, weight, bias)
    return _chosen(x, weight, bias, weight.shape[-1])


def _chosen(
    x: Float[Tensor, "*rows I"], weight: Float[Tensor, "..."], bias: Float[Tensor, "..."] | None, width: int
) -> Float[Tensor, "*rows O"]:
    """`linear` with what is chosen, for a weight of `width` inputs."""
    # the number of numbers first: a shape takes Python twice as long
    num_rows = x.numel() // width if width else 0
    if not current.STATE.differs(num_rows) or not x.is_cpu or num_rows == 0:
        return functional.linear(x, weight, bias)
    # autocast leaves float64 as it is
    is_autocast = torch.is_autocast_enabled("cpu") and torch.float64 not in (x.dtype, weight.dtype)
    dtype = torch.get_autocast_dtype("cpu") if is_autocast else x.dtype
    plan = current.STATE.plan_of(dtype, num_rows, weight.numel())
    needs_gradient = torch.is_grad_enabled() and any(
        part is not None and part.requires_grad for part in (x, weight, bias)
    )
    used = plan if needs_gradient else (plan.forward,)
    if all(each is TORCH for each in used):
        return functional.linear(x, weight, bias)
    if is_autocast:
        x, weight = x.to(dtype), weight.to(dtype)
        bias = None if bias is None else bias.to(dtype)
    if not _fit(x, weight, bias):
        # torch's to refuse
        return functional.linear(x, weight, bias)
    rows = x.reshape(-1, width)
    if needs_gradient:
        y: Tensor = _Product.apply(rows, weight, bias, plan)  # type: ignore[no-untyped-call]
    else:
        y = plan.forward.functions[Operation.forward](rows, weight, bias)
    return y.view(*x.shape[:-1], weight.shape[0])


def _fit(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether the shapes, dtypes and devices are those of one product."""
    others = (weight,) if bias is None else (weight, bias)
    is_shaped = weight.ndim == 2 and weight.shape[1] == x.shape[-1] and (bias is None or bias.shape == weight.shape[:1])
    return is_shaped and all(each.is_cpu and each.dtype is x.dtype for each in others)


class _Product(torch.autograd.Function):
    """A product whose gradients are computed as a plan says, as far as they are needed."""

    @staticmethod
    def forward(
        ctx: Any, x: Float[Tensor, "R I"], weight: Float[Tensor, "O I"], bias: Float[Tensor, " O"] | None, plan: Plan
    ) -> Float[Tensor, "R O"]:
        # the input is kept for the weight's gradient only, the weight for the input's
        ctx.save_for_backward(
            x if ctx.needs_input_grad[1] else None,
            weight if ctx.needs_input_grad[0] else None,
        )
        ctx.plan = plan
        return plan.forward.functions[Operation.forward](x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Float[Tensor, "R O"]) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        of_input = of_weight = None
        if weight is not None:
            of_input = ctx.plan.input_gradient.functions[Operation.input_gradient](gradient, weight)
        if x is not None:
            of_weight = ctx.plan.weight_gradient.functions[Operation.weight_gradient](gradient, x)
        of_bias = gradient.sum(dim=0) if ctx.needs_input_grad[2] else None
        return of_input, of_weight, of_bias, None
