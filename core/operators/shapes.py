"""Argument checks shared by the decoding steps and the convolution; errors are one line."""

from collections.abc import Iterable

import torch
from torch import Tensor

from lab.core.errors import InputError

_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def check_tensors(first: Tensor, expected: Iterable[tuple[str, Tensor | None, tuple[int, ...], str]]) -> None:
    """Reject tensors with the wrong shape, a non-floating dtype, or a device other than that of the first.

    Args:
        first: the tensor whose device the others must share.
        expected: name, tensor, shape and names of the axes; a tensor that is None passes.

    Raises:
        InputError: naming the first invalid tensor.
    """
    for name, tensor, shape, axes in expected:
        if tensor is None:
            continue
        if tensor.shape != shape:
            raise InputError(f"{name} has shape {tuple(tensor.shape)} but must be [{axes}] = {list(shape)}; reshape it")
        if tensor.dtype not in _DTYPES:
            raise InputError(
                f"{name} has dtype {tensor.dtype} but must be float32, float64, bfloat16 or float16; cast it"
            )
        if tensor.device != first.device:
            raise InputError(f"{name} is on {tensor.device} but must be on {first.device}; move it there")


def refuse_gradients(operator: str, tensors: Iterable[Tensor | None]) -> None:
    """Refuse to overwrite a state while gradients are recorded: they would be silently lost.

    Raises:
        InputError: if a tensor requires a gradient outside `torch.no_grad`.
    """
    if not torch.is_grad_enabled():
        return
    for tensor in tensors:
        if tensor is not None and tensor.requires_grad:
            raise InputError(f"{operator} overwrites its state and gives no gradients; call it under torch.no_grad()")
