"""The compiled loop of a decoding step of the gated delta rule (`core/native/src/delta_step.cpp`)."""

# Letters: B batch, H heads, Hq, Hk, Hv heads of q, k and v, K key_dim, V value_dim.

import ctypes
from collections.abc import Callable
from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor

from lab.core.native.step_loop import compile_loop, is_supported


def has_loop(state: Tensor, q: Tensor) -> bool:
    """Whether the loop supports the device and dtypes, and could be compiled."""
    return is_supported(state, q) and _loop() is not None


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
    loop = _loop()
    if loop is None:
        return False
    return loop((state, q, k, v, g, beta, y), scale, torch.get_num_threads())


@cache
def _loop() -> Callable[..., bool] | None:
    return compile_loop("delta_step.cpp", "delta_rule_step", ctypes.c_double)
