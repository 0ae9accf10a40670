"""Compiled loops of decoding steps: which tensors they read in place, and how they are called.

A step on a state in cache takes ten microseconds, as long as a few dozen Python calls. So the tensor objects are passed
as they are, and C++ reads their shapes and strides.
"""

import ctypes
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lab.core.native.build import load_native
from lab.core.native.dlpack import tensor_exchange

# dtypes of the state, with what is computed in its precision, and of a token's vectors
_DTYPES = {(torch.float32, torch.float32), (torch.float32, torch.bfloat16), (torch.float64, torch.float64)}


def is_supported(state: Tensor, token: Tensor) -> bool:
    """Whether loops are compiled for the device and the dtypes of a state and a token's vectors."""
    return state.is_cpu and (state.dtype, token.dtype) in _DTYPES


def compile_loop(source: str, function: str, setting: Any) -> Callable[..., bool] | None:
    """The loop of a source file, called with (tensors, setting, threads); None if it cannot be compiled.

    Args:
        source: a file of core/native/src.
        function: its name there.
        setting: C type of the one argument that is not a tensor.

    Returns:
        A function whose result is False, with nothing done, if it cannot read the tensors in place.
    """
    # OpenMP shares its threads with torch's own loops, so they are already awake
    library, exchange = load_native(source, "-fopenmp").library, tensor_exchange()
    if library is None or exchange is None:
        return None
    prototype = ctypes.PYFUNCTYPE(ctypes.c_bool, ctypes.c_void_p, ctypes.py_object, setting, ctypes.c_int)
    return partial(prototype((function, library)), ctypes.byref(exchange))
