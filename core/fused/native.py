"""The compiled loops of fused operations (`core/native/src/fused.cpp`)."""

# Letters: R rows, D width.

import ctypes
from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor

from lab.core.native.build import load_native

SOURCE = "fused.cpp"
# rows whose gradients of a norm's weight are summed by one task there
NORM_BLOCK = 64
_DTYPES = {torch.float32: "float32", torch.float64: "float64"}
# below so many entries a second thread does not pay off
_ENTRIES_PER_THREAD = 32_768

_POINTER, _INDEX = ctypes.c_void_p, ctypes.c_int64
_ARGUMENTS: dict[str, list[type]] = {
    "norm_forward": [_POINTER] * 3 + [_INDEX] * 2 + [ctypes.c_double],
    "norm_backward": [_POINTER] * 5 + [_INDEX] * 2 + [ctypes.c_double],
    "product_forward": [_POINTER] * 3 + [_INDEX],
    "product_backward": [_POINTER] * 5 + [_INDEX],
    "rotate": [_POINTER] * 5,
}


def why_not() -> str | None:
    """Why the loops cannot run; None if they can. Builds them."""
    return load_native(SOURCE, "-fopenmp").why_not


def can_run(*tensors: Tensor) -> bool:
    """Whether the loops are compiled for these tensors, which must have one dtype; builds them at the first call."""
    dtype = tensors[0].dtype
    is_fit = dtype in _DTYPES and all(each.is_cpu and each.dtype is dtype for each in tensors)
    return is_fit and tensors[0].numel() > 0 and why_not() is None


def call(name: str, tensors: Sequence[Tensor | None], *numbers: object, size: int) -> None:
    """Run a loop.

    Args:
        name: of the function there, without the dtype.
        tensors: its arrays, the first of which has the dtype.
        numbers: what follows them.
        size: number of entries, for the number of threads.
    """
    first = tensors[0]
    assert first is not None, "only gradients that nobody needs are missing"
    addresses = [None if tensor is None else tensor.data_ptr() for tensor in tensors]
    threads = max(1, min(torch.get_num_threads(), size // _ENTRIES_PER_THREAD))
    _loop(name, _DTYPES[first.dtype])(*addresses, *numbers, threads)


@cache
def _loop(name: str, dtype: str) -> Callable[..., None]:
    # OpenMP shares its threads with torch's own loops, so they are already awake
    library = load_native(SOURCE, "-fopenmp").library
    assert library is not None, "can_run was asked before"
    loop = library[f"{name}_{dtype}"]
    loop.restype = None
    loop.argtypes = [*_ARGUMENTS[name], ctypes.c_int]
    return loop
