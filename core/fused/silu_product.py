"""SiLU(a) b, in one pass over memory."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from lab.core.fused import native


def silu_product(a: Float[Tensor, "*shape"], b: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """a sigmoid(a) b, entry by entry, for two tensors of one shape."""
    if not native.can_run(a, b):
        return functional.silu(a) * b
    if torch.is_grad_enabled() and (a.requires_grad or b.requires_grad):
        y: Tensor = _Product.apply(a, b)  # type: ignore[no-untyped-call]
        return y
    return _product(a.contiguous(), b.contiguous())


def _product(a: Tensor, b: Tensor) -> Tensor:
    y = torch.empty_like(a)
    native.call("product_forward", [a, b, y], a.numel(), size=a.numel())
    return y


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        a, b = a.contiguous(), b.contiguous()
        ctx.save_for_backward(a, b)
        return _product(a, b)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_y: Tensor) -> tuple[Tensor, Tensor]:
        a, b = ctx.saved_tensors
        of_a, of_b = torch.empty_like(a), torch.empty_like(b)
        native.call("product_backward", [a, b, of_y.contiguous(), of_a, of_b], a.numel(), size=a.numel())
        return of_a, of_b
