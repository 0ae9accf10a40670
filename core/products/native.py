"""The compiled loop of products with a few rows (`core/native/src/rows_product.cpp`)."""

# Letters: R rows, I inputs, O outputs.

import ctypes
from collections.abc import Callable
from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor

from lab.core.native.build import load_native
from lab.core.products import cpu

SOURCE = "rows_product.cpp"
# numbers of the dtypes there
_KINDS = {torch.float32: 0, torch.bfloat16: 1, torch.float64: 2}


def why_not(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why the loop cannot run on a device with a dtype; None if it can. Builds the loop."""
    return cpu.why_not(device, dtype, _KINDS) or load_native(SOURCE, "-fopenmp").why_not


def forward(
    x: Float[Tensor, "R I"], weight: Float[Tensor, "O I"], bias: Float[Tensor, " O"] | None
) -> Float[Tensor, "R O"]:
    """x W' + b, without a graph."""
    x, weight = x.contiguous(), weight.contiguous()
    bias = None if bias is None else bias.contiguous()
    y = x.new_empty(x.shape[0], weight.shape[0])
    _loop()(
        x.data_ptr(),
        weight.data_ptr(),
        None if bias is None else bias.data_ptr(),
        y.data_ptr(),
        x.shape[0],
        x.shape[1],
        weight.shape[0],
        _KINDS[x.dtype],
        torch.get_num_threads(),
    )
    return y


@cache
def _loop() -> Callable[..., None]:
    # OpenMP shares its threads with torch's own loops, so they are already awake
    library = load_native(SOURCE, "-fopenmp").library
    assert library is not None, "why_not was asked before"
    loop = library.rows_product
    loop.restype = None
    loop.argtypes = [ctypes.c_void_p] * 4 + [ctypes.c_int64] * 3 + [ctypes.c_int] * 2
    return loop
