"""The compiled loop of a decoding step (`core/native/src/step.cpp`)."""

# Letters: B batch, H heads, G groups, P head_dim, N state_dim.

import ctypes
from collections.abc import Callable
from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor

from lab.core.native.step_loop import compile_loop, is_supported


def has_loop(state: Tensor, x: Tensor) -> bool:
    """Whether the loop supports the device and dtypes, and could be compiled."""
    return is_supported(state, x) and _loop() is not None


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
    loop = _loop()
    if loop is None:
        return False
    return loop((state, x, dt, A, B, C, D, dt_bias, y), dt_softplus, torch.get_num_threads())


@cache
def _loop() -> Callable[..., bool] | None:
    return compile_loop("step.cpp", "step", ctypes.c_bool)
