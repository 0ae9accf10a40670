"""The rotation of heads by their token's angles, in one pass over memory."""

# Letters: B batch, T tokens, G groups of R heads, P head_dim, Q channels of a head that turn.

import ctypes
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from lab.core.fused import native


def rotated(
    x: Float[Tensor, "B T G R P"], cos: Float[Tensor, "T Q_half"], sin: Float[Tensor, "T Q_half"]
) -> Float[Tensor, "B T G R P"]:
    """Channel i < Q/2 of each head turned with channel i + Q/2; channels from Q on are kept.

    In the precision of the angles, returned in that of x.
    """
    if not native.can_run(x, cos, sin):
        return _in_torch(x, cos, sin)
    if torch.is_grad_enabled() and x.requires_grad:
        y: Tensor = _Rotation.apply(x, cos, sin)  # type: ignore[no-untyped-call]
        return y
    return _rotate(x, cos, sin)


class _Heads(ctypes.Structure):
    """`Heads` there."""

    _fields_ = [
        (name, ctypes.c_int64)
        for name in (
            *("batch", "tokens", "groups", "heads", "width", "turned"),
            *("batch_step", "token_step", "group_step", "head_step"),
        )
    ]


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    x = x if x.stride(-1) == 1 else x.contiguous()
    y = torch.empty(x.shape, dtype=x.dtype)
    heads = _Heads(*x.shape, 2 * cos.shape[-1], *x.stride()[:4])
    tensors = [x, cos.contiguous(), sin.contiguous(), y]
    native.call("rotate", tensors, ctypes.addressof(heads), size=x.numel())
    return y


class _Rotation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotate(x, cos, sin)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_y: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        # the transpose of a rotation turns back
        return _rotate(of_y, cos, -sin), None, None


def _in_torch(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    width = 2 * cos.shape[-1]
    cos, sin = cos[:, None, None], sin[:, None, None]
    first, second = x[..., :width].to(cos.dtype).chunk(2, dim=-1)
    turned = torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x.dtype)
    return turned if width == x.shape[-1] else torch.cat([turned, x[..., width:]], dim=-1)
