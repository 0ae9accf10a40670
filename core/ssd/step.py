"""One decoding step of the state-space operator, in place on a preallocated state.

`step` after step leaves the state and the outputs that the operator gives for the whole sequence. On a CPU a compiled
loop passes over the state once; where none can be compiled, torch passes over it three times. Neither allocates
anything of the state's size.
"""

# Letters: B batch, H heads, G groups, P head_dim, N state_dim.

import ctypes
from functools import cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

from lab.core.backends import Backend, resolve
from lab.core.errors import InputError
from lab.core.native import load_native
from lab.core.ssd.arguments import SOFTPLUS_THRESHOLD
from lab.core.ssd.shapes import check_tensors, refuse_gradients

# the compiled loops: (dtype of the state, dtype of x, B, C and y) to the name of the function
_LOOPS = {
    (torch.float32, torch.float32): "step_float32",
    (torch.float32, torch.bfloat16): "step_bfloat16",
    (torch.float64, torch.float64): "step_float64",
}
_NUM_POINTERS, _NUM_SIZES = 9, 11

# numbers in the state below which a second thread costs more than it saves
_PARALLEL_FROM = 65_536


def step(
    state: Float[Tensor, "B H P N"],
    x: Float[Tensor, "B H P"],
    dt: Float[Tensor, "B H"],
    A: Float[Tensor, " H"],
    B: Float[Tensor, "B G N"],
    C: Float[Tensor, "B G N"],
    *,
    D: Float[Tensor, " H"] | Float[Tensor, "H P"] | None = None,
    dt_bias: Float[Tensor, " H"] | None = None,
    dt_softplus: bool = False,
    out: Float[Tensor, "B H P"] | None = None,
    backend: str | Backend = "auto",
) -> Float[Tensor, "B H P"]:
    """Advance the state by one token and return the token's output.

    h = exp(dt A) h + dt x B', then y = h C + D x, head by head; head h reads group h // (H // G). The state is
    overwritten and no gradient flows: this is decoding. Arguments are those of `lab.core.ssd.ssd` without the axis of
    tokens.

    Args:
        state: h, contiguous; float32 whatever the dtype of x, unless the rounding of fewer bits is wanted.
        x: the token's input.
        dt: step sizes, before bias and softplus if these are given.
        A: log decay rates, negative.
        B: what the token writes.
        C: what the token reads.
        D: share of the input that goes past the state, per head or per channel.
        dt_bias: added to dt.
        dt_softplus: whether dt = softplus(dt + dt_bias).
        out: where the output is written, contiguous and in the dtype of x; it is returned. With it a step on the
            compiled path allocates nothing.
        backend: "auto", a name, or what `lab.core.backends.resolve` gave for "ssd_step".

    Raises:
        InputError: for shapes, dtypes or devices that do not fit, a state or output that is not contiguous, or where
            gradients are recorded.
        BackendError: for an implementation that cannot run here.
    """
    _check(state, x, dt, A, B, C, D, dt_bias, out)
    run = resolve("ssd_step", backend, state.device, x.dtype).load()
    y: Tensor = run(state, x, dt, A, B, C, D=D, dt_bias=dt_bias, dt_softplus=dt_softplus, out=out)
    return y


def step_portable(
    state: Float[Tensor, "B H P N"],
    x: Float[Tensor, "B H P"],
    dt: Float[Tensor, "B H"],
    A: Float[Tensor, " H"],
    B: Float[Tensor, "B G N"],
    C: Float[Tensor, "B G N"],
    *,
    D: Float[Tensor, "..."] | None = None,
    dt_bias: Float[Tensor, " H"] | None = None,
    dt_softplus: bool = False,
    out: Float[Tensor, "B H P"] | None = None,
) -> Float[Tensor, "B H P"]:
    """`step` in the compiled loop where there is one for device and dtypes, else in torch."""
    y = torch.empty_like(x, memory_format=torch.contiguous_format) if out is None else out
    name = _LOOPS.get((state.dtype, x.dtype)) if state.device.type == "cpu" else None
    loop = None if name is None else _compiled(name)
    if loop is None:
        return _step_in_torch(state, x, dt, A, B, C, D, dt_bias, dt_softplus, y)
    batch, heads, head_dim, state_dim = state.shape
    dtype = state.dtype
    x, B, C = _ready(x, x.dtype), _ready(B, x.dtype), _ready(C, x.dtype)
    dt, A = _ready(dt, dtype), _ready(A, dtype)
    D = None if D is None else _ready(D, dtype)
    dt_bias = None if dt_bias is None else _ready(dt_bias, dtype)
    loop(
        state.data_ptr(),
        x.data_ptr(),
        dt.data_ptr(),
        A.data_ptr(),
        B.data_ptr(),
        C.data_ptr(),
        None if D is None else D.data_ptr(),
        None if dt_bias is None else dt_bias.data_ptr(),
        y.data_ptr(),
        batch,
        heads,
        B.shape[1],
        head_dim,
        state_dim,
        x.stride(0),
        dt.stride(0),
        B.stride(0),
        C.stride(0),
        D is not None and D.ndim == 1,
        dt_softplus,
        torch.get_num_threads() if state.numel() >= _PARALLEL_FROM else 1,
    )
    return y


def step_reference(
    state: Float[Tensor, "B H P N"],
    x: Float[Tensor, "B H P"],
    dt: Float[Tensor, "B H"],
    A: Float[Tensor, " H"],
    B: Float[Tensor, "B G N"],
    C: Float[Tensor, "B G N"],
    *,
    D: Float[Tensor, "..."] | None = None,
    dt_bias: Float[Tensor, " H"] | None = None,
    dt_softplus: bool = False,
    out: Float[Tensor, "B H P"] | None = None,
) -> Float[Tensor, "B H P"]:
    """`step` from its definition, each head with a copy of its group's B and C."""
    dtype = torch.promote_types(state.dtype, torch.float32)
    num_repeats = state.shape[1] // B.shape[1]
    write, read = (tensor.to(dtype).repeat_interleave(num_repeats, dim=1) for tensor in (B, C))
    size = _step_size(dt, dt_bias, dt_softplus, dtype)
    decay = torch.exp(size * A.to(dtype))
    written = torch.einsum("bh,bhp,bhn->bhpn", size, x.to(dtype), write)
    after = decay[..., None, None] * state.to(dtype) + written
    state.copy_(after)
    y = torch.einsum("bhpn,bhn->bhp", after, read)
    if D is not None:
        y = y + D.to(dtype).reshape(len(D), -1) * x.to(dtype)
    return y.to(x.dtype) if out is None else out.copy_(y)


def _step_in_torch(
    state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    dt_bias: Tensor | None,
    dt_softplus: bool,
    y: Tensor,
) -> Tensor:
    batch, heads, head_dim, state_dim = state.shape
    # heads of a group are rows of one matrix: B and C need no copies
    rows = batch * B.shape[1]
    dtype = torch.promote_types(state.dtype, torch.float32)
    size = _step_size(dt, dt_bias, dt_softplus, dtype)
    token = x.to(dtype)
    # a state of fewer bits is rounded once a step, not at every operation
    work = state.to(dtype)
    work.mul_(torch.exp(size * A.to(dtype))[..., None, None])
    by_group = work.view(rows, -1, state_dim)
    by_group.baddbmm_((size[..., None] * token).reshape(rows, -1, 1), B.to(dtype).reshape(rows, 1, state_dim))
    read = torch.bmm(by_group, C.to(dtype).reshape(rows, state_dim, 1)).view(batch, heads, head_dim)
    if D is not None:
        read.addcmul_(D.to(dtype).reshape(heads, -1), token)
    if work is not state:
        state.copy_(work)
    return y.copy_(read)


def _step_size(dt: Tensor, dt_bias: Tensor | None, dt_softplus: bool, dtype: torch.dtype) -> Tensor:
    size = dt.to(dtype) if dt_bias is None else dt.to(dtype) + dt_bias.to(dtype)
    return softplus(size, threshold=SOFTPLUS_THRESHOLD) if dt_softplus else size


def _ready(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """The tensor itself unless the loop cannot read it: its dtype differs, or a batch entry is not one piece."""
    if tensor.dtype == dtype:
        if tensor.is_contiguous():
            return tensor
        # what a projection gave is cut into x, B and C: entries lie apart, each in one piece
        if tensor.ndim > 1 and tensor[0].is_contiguous():
            return tensor
    return tensor.to(dtype).contiguous()


@cache
def _compiled(name: str) -> Any:
    # OpenMP: its threads are those that torch's own loops use, so they are awake
    library = load_native("step.cpp", "-fopenmp").library
    if library is None:
        return None
    loop = getattr(library, name)
    loop.argtypes = [ctypes.c_void_p] * _NUM_POINTERS + [ctypes.c_int64] * _NUM_SIZES + [ctypes.c_int]
    loop.restype = None
    return loop


def _check(
    state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    dt_bias: Tensor | None,
    out: Tensor | None,
) -> None:
    if state.ndim != 4 or 0 in state.shape[1:]:
        raise InputError(
            f"state has shape {tuple(state.shape)} but must be [B, H, P, N], none of the last 0; reshape it"
        )
    if not state.is_contiguous():
        raise InputError("state is not contiguous, but it is overwritten in place; allocate it as [B, H, P, N]")
    batch, heads, head_dim, state_dim = state.shape
    if B.ndim != 3 or B.shape[1] == 0 or heads % B.shape[1]:
        raise InputError(
            f"B has shape {tuple(B.shape)} but must be [B, G, N] with G a divisor of {heads} heads; reshape it"
        )
    channels = (heads, head_dim) if D is not None and D.ndim == 2 else (heads,)
    check_tensors(
        state,
        (
            ("state", state, state.shape, "B, H, P, N"),
            ("x", x, (batch, heads, head_dim), "B, H, P"),
            ("dt", dt, (batch, heads), "B, H"),
            ("A", A, (heads,), "H"),
            ("B", B, (batch, B.shape[1], state_dim), "B, G, N"),
            ("C", C, (batch, B.shape[1], state_dim), "B, G, N"),
            ("D", D, channels, "H, P" if len(channels) == 2 else "H"),
            ("dt_bias", dt_bias, (heads,), "H"),
            ("out", out, (batch, heads, head_dim), "B, H, P"),
        ),
    )
    if out is not None and (out.dtype != x.dtype or not out.is_contiguous()):
        raise InputError(f"out has dtype {out.dtype} but must be contiguous and {x.dtype} like x; allocate it so")
    refuse_gradients("step", (state, x, dt, A, B, C, D, dt_bias))
