"""Argument checks that operators share; errors are one line."""

from collections.abc import Collection, Iterable

import torch
from torch import Tensor

from lab.core.errors import InputError

_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def computing_dtype(x: Tensor) -> torch.dtype:
    """float64 for float64 inputs, else float32: 16-bit sums over thousands of tokens lose too much precision."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def check_floating(name: str, tensor: Tensor) -> None:
    """Reject a tensor with a dtype in which nothing is computed.

    Raises:
        InputError: naming the dtype.
    """
    if tensor.dtype not in _DTYPES:
        raise InputError(f"{name} has dtype {tensor.dtype} but must be float32, float64, bfloat16 or float16; cast it")


def check_operands(
    first: tuple[str, Tensor],
    expected: Iterable[tuple[str, Tensor | None, tuple[int, ...]]],
    *,
    same_dtype: Collection[str],
) -> None:
    """Reject operands with the wrong shape or device, or a dtype that the computation would narrow.

    Args:
        first: name and tensor of the operand whose device the others must share.
        expected: name, tensor and shape; a tensor that is None passes.
        same_dtype: names of operands that must have the dtype of the first.

    Raises:
        InputError: naming the first invalid tensor.
    """
    leader, leading = first
    widest = computing_dtype(leading)
    for name, tensor, shape in expected:
        if tensor is None:
            continue
        if tensor.shape != shape:
            raise InputError(f"{name} has shape {tuple(tensor.shape)} but must have shape {shape}; reshape it")
        if tensor.device != leading.device:
            raise InputError(
                f"{name} is on {tensor.device} but {leader} is on {leading.device}; move one to the other's device"
            )
        if name in same_dtype:
            if tensor.dtype != leading.dtype:
                raise InputError(
                    f"{name} has dtype {tensor.dtype} but {leader} has {leading.dtype}; cast one to the other's"
                )
        elif tensor.dtype not in _DTYPES or (tensor.dtype == torch.float64 and widest != torch.float64):
            raise InputError(
                f"{name} has dtype {tensor.dtype} but the computation is in {widest}; cast {name} to {widest}"
            )


def check_chunk_size(chunk_size: int | None) -> None:
    """Reject a number of tokens per chunk that is not a whole number of 1 or more; None passes.

    Raises:
        InputError: naming the value.
    """
    if chunk_size is not None and (type(chunk_size) is not int or chunk_size < 1):
        raise InputError(f"chunk_size={chunk_size!r} must be a whole number of 1 or more; give an int or None")


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
        check_floating(name, tensor)
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
