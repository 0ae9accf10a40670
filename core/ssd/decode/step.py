"""One decoding step of the state-space operator, in place on a preallocated state.

Stepping through a sequence gives the same state and outputs as the operator on the whole sequence. On a CPU a compiled
loop passes over the state once; without a compiler, torch passes over it three times. Neither allocates memory of the
state's size.
"""

# Letters: B batch, H heads, G groups, P head_dim, N state_dim.

from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

from lab.core.errors import InputError
from lab.core.operators.arguments import check_tensors, refuse_gradients
from lab.core.operators.backends import Backend, Implementation, resolve
from lab.core.ssd.decode.native import advance, has_loop
from lab.core.ssd.validation import SOFTPLUS_THRESHOLD


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
    overwritten and there are no gradients. Arguments are as for `lab.core.ssd.ssd`, without the token axis.

    Args:
        state: h, contiguous; usually float32 for any dtype of x, or a 16-bit dtype to accept its rounding.
        x: the token's input.
        dt: step sizes, before bias and softplus if these are used.
        A: log decay rates, negative.
        B: input map of the token.
        C: output map of the token.
        D: weight of the skip connection, per head or per channel.
        dt_bias: added to dt.
        dt_softplus: whether dt = softplus(dt + dt_bias).
        out: buffer for the output, contiguous and in the dtype of x; it is returned. With it, the compiled loop
            allocates nothing.
        backend: "auto", a name, or the result of `lab.core.operators.backends.resolve` for "ssd_step".

    Raises:
        InputError: if shapes, dtypes or devices do not match, the state or output is not contiguous, or gradients are
            recorded.
        BackendError: if the requested backend cannot run here.
    """
    refuse_gradients("step", (state, x, dt, A, B, C, D, dt_bias))
    run = _implementation(backend, state.device, x.dtype)
    if run is step_portable:
        y = torch.empty_like(x, memory_format=torch.contiguous_format) if out is None else out
        # the compiled loop checks its own inputs
        if advance(state, x, dt, A, B, C, D, dt_bias, dt_softplus, y):
            return y
    _check(state, x, dt, A, B, C, D, dt_bias, out)
    checked: Tensor = run(state, x, dt, A, B, C, D=D, dt_bias=dt_bias, dt_softplus=dt_softplus, out=out)
    return checked


@cache
def _implementation(backend: str | Backend, device: torch.device, dtype: torch.dtype) -> Implementation:
    return resolve("ssd_step", backend, device, dtype).load()


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
    """`step` in the compiled loop if it supports the device and dtypes, else in torch."""
    y = torch.empty_like(x, memory_format=torch.contiguous_format) if out is None else out
    if has_loop(state, x):
        x, B, C = (tensor.to(x.dtype).contiguous() for tensor in (x, B, C))
        dt, A = (tensor.to(state.dtype).contiguous() for tensor in (dt, A))
        D, dt_bias = (None if tensor is None else tensor.to(state.dtype).contiguous() for tensor in (D, dt_bias))
        if advance(state, x, dt, A, B, C, D, dt_bias, dt_softplus, y):
            return y
    # this also serves fake tensors without memory, as in tracing
    return _step_in_torch(state, x, dt, A, B, C, D, dt_bias, dt_softplus, y)


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
    """`step` by definition, with a copy of B and C for each head."""
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
    # heads of a group are rows of one matrix, so B and C need not be copied
    rows, rows_of_one = batch * B.shape[1], heads // B.shape[1] * head_dim
    dtype = torch.promote_types(state.dtype, torch.float32)
    size = _step_size(dt, dt_bias, dt_softplus, dtype)
    token = x.to(dtype)
    # a 16-bit state is rounded once per step, not at every operation
    work = state.to(dtype)
    work.mul_(torch.exp(size * A.to(dtype))[..., None, None])
    by_group = work.view(rows, rows_of_one, state_dim)
    by_group.baddbmm_((size[..., None] * token).reshape(rows, rows_of_one, 1), B.to(dtype).reshape(rows, 1, state_dim))
    read = torch.bmm(by_group, C.to(dtype).reshape(rows, state_dim, 1)).view(batch, heads, head_dim)
    if D is not None:
        read.addcmul_(D.to(dtype).reshape(heads, -1), token)
    if work is not state:
        state.copy_(work)
    return y.copy_(read)


def _step_size(dt: Tensor, dt_bias: Tensor | None, dt_softplus: bool, dtype: torch.dtype) -> Tensor:
    size = dt.to(dtype) if dt_bias is None else dt.to(dtype) + dt_bias.to(dtype)
    return softplus(size, threshold=SOFTPLUS_THRESHOLD) if dt_softplus else size


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
