"""The compiled loop of a decoding step of the gated delta rule (`core/native/src/delta_step.cpp`).

The tensor objects are passed as they are, and C++ reads their shapes and strides: a step takes about as long as a few
dozen Python calls.
"""

# Letters: B batch, H heads, Hq, Hk, Hv heads of q, k and v, K key_dim, V value_dim.

import ctypes
from collections.abc import Callable
from functools import cache, partial

import torch
from jaxtyping import Float
from torch import Tensor

from lab.core.native.build import load_native
from lab.core.native.dlpack import tensor_exchange

# dtypes of the state (with g and beta) and of q (with k, v and y)
_DTYPES = {(torch.float32, torch.float32), (torch.float32, torch.bfloat16), (torch.float64, torch.float64)}


def has_loop(state: Tensor, q: Tensor) -> bool:
    """Whether the loop supports the device and dtypes, and could be compiled."""
    return state.is_cpu and (state.dtype, q.dtype) in _DTYPES and _compiled() is not None


def advance(
    state: Float[Tensor, "B H V K"],
    q: Float[Tensor, "B Hq K"],
    k: Float[Tensor, "B Hk K"],
    v: Float[Tensor, "B Hv V"],
    g: Float[Tensor, "B H"],
    beta: Float[Tensor, "B H"],
    scale: float,
    y: Float[Tensor, "B H V"],
) -> bool:
    """Advance the state and write y; returns False, doing nothing, if the loop cannot read the tensors in place."""
    loop = _compiled()
    if loop is None:
        return False
    return loop((state, q, k, v, g, beta, y), scale, torch.get_num_threads())


@cache
def _compiled() -> Callable[[tuple[Tensor, ...], float, int], bool] | None:
    # OpenMP shares its threads with torch's own loops, so they are already awake
    library, exchange = load_native("delta_step.cpp", "-fopenmp").library, tensor_exchange()
    if library is None or exchange is None:
        return None
    prototype = ctypes.PYFUNCTYPE(ctypes.c_bool, ctypes.c_void_p, ctypes.py_object, ctypes.c_double, ctypes.c_int)
    return partial(prototype(("delta_rule_step", library)), ctypes.byref(exchange))
