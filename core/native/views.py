"""Strided views of tensors [batch, token, head, ...] for compiled loops (`View` of src/rows.h)."""

import ctypes

from torch import Tensor


class View(ctypes.Structure):
    """`View` of src/rows.h: an address and the strides of the first three axes."""

    _fields_ = [("data", ctypes.c_void_p), *((name, ctypes.c_int64) for name in ("batch", "token", "head"))]


def view_of(tensor: Tensor) -> View:
    """A view of a tensor with three axes, or four with a contiguous last one; the tensor must outlive it."""
    return View(tensor.data_ptr(), *tensor.stride()[:3])


def contiguous_rows(tensor: Tensor) -> Tensor:
    """The tensor itself if its last axis is contiguous, so that slices of a wide projection are not copied."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()
