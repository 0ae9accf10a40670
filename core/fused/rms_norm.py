"""x / sqrt(mean(x^2) + eps) times a weight, in one pass over memory."""

# Letters: R rows, D width.

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from lab.core.fused import native


def rms_norm(x: Float[Tensor, "*rows D"], weight: Float[Tensor, " D"], *, eps: float) -> Float[Tensor, "*rows D"]:
    """RMSNorm over the last axis (Zhang and Sennrich, arXiv 1910.07467), in the dtype of x.

    Statistics are in float32 or better; of a narrower x, rounding precedes the weight, as in public code.
    """
    if not native.can_run(x, weight):
        return weight * functional.rms_norm(x, x.shape[-1:], eps=eps)
    if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
        y: Tensor = _Norm.apply(x, weight, eps)  # type: ignore[no-untyped-call]
        return y
    return _normed(x.contiguous(), weight, eps)


def _normed(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    y, width = torch.empty_like(x), x.shape[-1]
    native.call("norm_forward", [x, weight.contiguous(), y], x.numel() // width, width, eps, size=x.numel())
    return y


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        x = x.contiguous()
        ctx.save_for_backward(x, weight)
        ctx.eps = eps
        return _normed(x, weight, eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_y: Tensor) -> tuple[Tensor, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        of_y, of_x, width = of_y.contiguous(), torch.empty_like(x), x.shape[-1]
        num_rows = x.numel() // width
        num_blocks = -(-num_rows // native.NORM_BLOCK)
        of_weight = x.new_empty(num_blocks, width) if ctx.needs_input_grad[1] else None
        tensors = [x, weight.contiguous(), of_y, of_x, of_weight]
        native.call("norm_backward", tensors, num_rows, width, ctx.eps, size=x.numel())
        return of_x, None if of_weight is None else of_weight.sum(dim=0), None
