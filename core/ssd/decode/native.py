"""The compiled loop of a decoding step (`core/native/src/step.cpp`).

A step on a state in cache takes ten microseconds, as long as a few dozen Python calls. So the tensor objects are passed
as they are, and C++ reads their shapes and strides.
"""

# Letters: B batch, H heads, G groups, P head_dim, N state_dim.

import ctypes
from collections.abc import Callable
from functools import cache, partial

import torch
from jaxtyping import Float
from torch import Tensor

from lab.core.native.build import load_native
from lab.core.native.dlpack import tensor_exchange

# dtypes of the state (with dt, A, D and the bias) and of x (with B, C and y)
_DTYPES = {(torch.float32, torch.float32), (torch.float32, torch.bfloat16), (torch.float64, torch.float64)}


def has_loop(state: Tensor, x: Tensor) -> bool:
    """Whether the loop supports the device and dtypes, and could be compiled."""
    return state.is_cpu and (state.dtype, x.dtype) in _DTYPES and _compiled() is not None


def advance(
    state: Float[Tensor, "B H P N"],
    x: Float[Tensor, "B H P"],
    dt: Float[Tensor, "B H"],
    A: Float[Tensor, " H"],
    B: Float[Tensor, "B G N"],
    C: Float[Tensor, "B G N"],
    D: Float[Tensor, "..."] | None,
    dt_bias: Float[Tensor, " H"] | None,
    dt_softplus: bool,
    y: Float[Tensor, "B H P"],
) -> bool:
    """Advance the state and write y; returns False, doing nothing, if the loop cannot read the tensors in place."""
    loop = _compiled()
    if loop is None:
        return False
    return loop((state, x, dt, A, B, C, D, dt_bias, y), dt_softplus, torch.get_num_threads())


@cache
def _compiled() -> Callable[[tuple[Tensor | None, ...], bool, int], bool] | None:
    # OpenMP shares its threads with torch's own loops, so they are already awake
    library, exchange = load_native("step.cpp", "-fopenmp").library, tensor_exchange()
    if library is None or exchange is None:
        return None
    prototype = ctypes.PYFUNCTYPE(ctypes.c_bool, ctypes.c_void_p, ctypes.py_object, ctypes.c_bool, ctypes.c_int)
    return partial(prototype(("step", library)), ctypes.byref(exchange))
