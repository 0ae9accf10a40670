"""The compiled loop of a decoding step (`cpp/step.cpp`), through its plain C interface.

A step on a state that the cache holds takes ten microseconds, as long as a few dozen calls in Python. So what the loop
makes of tensors is decided once for their layouts, and its arguments go over in one piece.
"""

# Letters: B batch, H heads, G groups, P head_dim, N state_dim.

import ctypes
import struct
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Float
from torch import Tensor

from lab.core.native import load_native

# (dtype of the state and of dt, A, D and the bias, dtype of x, B, C and y) to the name of the function
_LOOPS = {
    (torch.float32, torch.float32): "step_float32",
    (torch.float32, torch.bfloat16): "step_bfloat16",
    (torch.float64, torch.float64): "step_float64",
}

# `Arguments` of cpp/step.cpp: addresses, then numbers
_ARGUMENTS = struct.Struct("9P12q")

# numbers in the state below which a second thread costs more than it saves
_PARALLEL_FROM = 65_536

# shape, strides, dtype, whether it is in the processor's memory
_Layout = tuple[torch.Size, tuple[int, ...], torch.dtype, bool]


class _Plan(NamedTuple):
    loop: str | None
    numbers: tuple[int, ...] = ()
    is_parallel: bool = False


# By the layouts of all tensors. A plain dictionary with a flat key: a call and a tuple for each tensor would take as
# long as the rest of a step in Python.
_plans: dict[tuple[Any, ...], _Plan] = {}
_MOST_PLANS = 1024


def has_loop(state: Tensor, x: Tensor) -> bool:
    """Whether there is a loop for device and dtypes, and a compiler for it."""
    name = _LOOPS.get((state.dtype, x.dtype)) if state.is_cpu else None
    return name is not None and _compiled(name) is not None


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
    """Advance the state and write y, if the loop can read all tensors where they lie; whether it could."""
    key = (
        state.shape, state.stride(), state.dtype, state.is_cpu,
        x.shape, x.stride(), x.dtype, x.is_cpu,
        dt.shape, dt.stride(), dt.dtype, dt.is_cpu,
        A.shape, A.stride(), A.dtype, A.is_cpu,
        B.shape, B.stride(), B.dtype, B.is_cpu,
        C.shape, C.stride(), C.dtype, C.is_cpu,
        y.shape, y.stride(), y.dtype, y.is_cpu,
        None if D is None else (D.shape, D.stride(), D.dtype, D.is_cpu),
        None if dt_bias is None else (dt_bias.shape, dt_bias.stride(), dt_bias.dtype, dt_bias.is_cpu),
    )  # fmt: skip
    name, numbers, is_parallel = _plans.get(key) or _remember(key)
    loop = None if name is None else _compiled(name)
    if loop is None:
        return False
    loop(
        _ARGUMENTS.pack(
            state.data_ptr(),
            x.data_ptr(),
            dt.data_ptr(),
            A.data_ptr(),
            B.data_ptr(),
            C.data_ptr(),
            0 if D is None else D.data_ptr(),
            0 if dt_bias is None else dt_bias.data_ptr(),
            y.data_ptr(),
            *numbers,
            dt_softplus,
            torch.get_num_threads() if is_parallel else 1,
        )
    )
    return True


def _remember(key: tuple[Any, ...]) -> _Plan:
    if len(_plans) >= _MOST_PLANS:
        _plans.clear()
    *_, D, dt_bias = key
    state, x, dt, A, B, C, y = (key[start : start + 4] for start in range(0, 28, 4))
    plan = _plans[key] = _planned(state, x, dt, A, B, C, D, dt_bias, y)
    return plan


def _planned(
    state: _Layout,
    x: _Layout,
    dt: _Layout,
    A: _Layout,
    B: _Layout,
    C: _Layout,
    D: _Layout | None,
    dt_bias: _Layout | None,
    y: _Layout,
) -> _Plan:
    """Which loop reads tensors of these layouts, and what it must know of them; none if a check or a copy is due."""
    wide, narrow = state[2], x[2]
    name = _LOOPS.get((wide, narrow))
    if name is None or len(state[0]) != 4 or len(B[0]) != 3 or 0 in (*state[0][1:], B[0][1]):
        return _Plan(None)
    batch, heads, head_dim, state_dim = state[0]
    groups = B[0][1]
    per_head = D is None or len(D[0]) == 1
    by_channel, by_group = (batch, heads, head_dim), (batch, groups, state_dim)
    # in one piece altogether, or the part of each batch entry
    whole = [
        (state, state[0], wide),
        (A, (heads,), wide),
        (D, (heads,) if per_head else (heads, head_dim), wide),
        (dt_bias, (heads,), wide),
        (y, by_channel, narrow),
    ]
    entries = [(x, by_channel, narrow), (dt, (batch, heads), wide), (B, by_group, narrow), (C, by_group, narrow)]
    fit = all(
        layout is None or (layout[0] == shape and layout[2] == dtype and layout[3])
        for layout, shape, dtype in whole + entries
    )
    if not fit or heads % groups:
        return _Plan(None)
    if not all(layout is None or _is_one_piece(layout[0], layout[1]) for layout, *_ in whole):
        return _Plan(None)
    if batch and not all(_is_one_piece(layout[0][1:], layout[1][1:]) for layout, *_ in entries):
        return _Plan(None)
    numbers = (*state[0], groups, *(layout[1][0] for layout, *_ in entries), per_head)
    return _Plan(name, numbers, is_parallel=state[0].numel() >= _PARALLEL_FROM)


def _is_one_piece(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    if 0 in shape:
        # nothing is read; an empty tensor keeps any strides
        return True
    # an axis of one entry may have any stride
    axes = [(size, stride) for size, stride in zip(shape, strides, strict=True) if size != 1]
    return all(stride == size * step for (_, stride), (size, step) in pairwise([*axes, (1, 1)]))


@cache
def _compiled(name: str) -> Callable[[bytes], None] | None:
    # OpenMP: its threads are those that torch's own loops use, so they are awake
    library = load_native("step.cpp", "-fopenmp").library
    if library is None:
        return None
    loop = getattr(library, name)
    loop.argtypes = [ctypes.c_char_p]
    loop.restype = None
    return cast("Callable[[bytes], None]", loop)
