"""The compiled product of packed blocks, for any number of rows (`core/native/src/matrix_product.cpp`)."""

# Letters: R rows, I inputs, O outputs.

import ctypes
from collections.abc import Callable
from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor

from lab.core.native.build import load_native
from lab.core.products import cpu

SOURCE = "matrix_product.cpp"
_DTYPES = torch.float32, torch.float64


def why_not(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why the product cannot run on a device with a dtype; None if it can. Builds it."""
    return cpu.why_not(device, dtype, _DTYPES) or load_native(SOURCE, "-fopenmp").why_not


def forward(
    x: Float[Tensor, "R I"], weight: Float[Tensor, "O I"], bias: Float[Tensor, " O"] | None
) -> Float[Tensor, "R O"]:
    """x W' + b, without a graph."""
    return _product(x, weight, bias)


def input_gradient(gradient: Float[Tensor, "R O"], weight: Float[Tensor, "O I"]) -> Float[Tensor, "R I"]:
    """The output's gradient times W."""
    return _product(gradient, weight.t())


def weight_gradient(gradient: Float[Tensor, "R O"], x: Float[Tensor, "R I"]) -> Float[Tensor, "O I"]:
    """The output's gradient, transposed, times x."""
    return _product(gradient.t(), x.t())


def _product(
    left: Float[Tensor, "rows depth"], right: Float[Tensor, "columns depth"], bias: Tensor | None = None
) -> Float[Tensor, "rows columns"]:
    """left right' + bias.

    Raises:
        MemoryError: if there is no memory for the packed blocks.
    """
    left, right = _with_neighbours(left), _with_neighbours(right)
    bias = None if bias is None else bias.contiguous()
    to = left.new_empty(left.shape[0], right.shape[0])
    is_done = _loop()(
        left.data_ptr(),
        *left.stride(),
        right.data_ptr(),
        *right.stride(),
        None if bias is None else bias.data_ptr(),
        to.data_ptr(),
        *to.shape,
        left.shape[1],
        left.dtype is torch.float64,
        torch.get_num_threads(),
    )
    if not is_done:
        raise MemoryError(f"no memory to pack a product of {tuple(left.shape)} and {tuple(right.shape)} numbers")
    return to


def _with_neighbours(matrix: Tensor) -> Tensor:
    """The matrix, with rows or columns whose numbers are next to each other."""
    return matrix if 1 in matrix.stride() else matrix.contiguous()


@cache
def _loop() -> Callable[..., bool]:
    library = load_native(SOURCE, "-fopenmp").library
    assert library is not None, "why_not was asked before"
    loop = library.matrix_product
    loop.restype = ctypes.c_bool
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    operand = pointer, number, number
    loop.argtypes = (*operand, *operand, pointer, pointer, number, number, number, ctypes.c_bool, number)
    return loop
