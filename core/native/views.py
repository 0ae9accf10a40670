"""Tensors [batch, token, head, ...] for compiled loops that read them where they lie (`View` of cpp/rows.h)."""

import ctypes

from torch import Tensor


class View(ctypes.Structure):
    """`View` of cpp/rows.h: an address and the strides of the first three axes."""

    _fields_ = [("data", ctypes.c_void_p), *((name, ctypes.c_int64) for name in ("batch", "token", "head"))]


def view_of(tensor: Tensor) -> View:
    """A tensor of three axes, or of four whose last one is contiguous; it must outlive the view."""
    return View(tensor.data_ptr(), *tensor.stride()[:3])


def contiguous_rows(tensor: Tensor) -> Tensor:
    """The tensor itself if its last axis is contiguous: a slice of a wide projection is read where it lies."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()
