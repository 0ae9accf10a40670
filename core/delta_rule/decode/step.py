"""One decoding step of the gated delta rule, in place on a preallocated state.

Stepping through a sequence gives the same state and outputs as the operator on the whole sequence. On a CPU a compiled
loop passes over the state once; without a compiler, torch passes over it four times. Neither allocates memory of the
state's size.
"""

# Letters: B batch, H heads, Hq, Hk, Hv heads of q, k and v, K key_dim, V value_dim.

from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor

from lab.core.delta_rule.decode.native import advance, has_loop
from lab.core.errors import InputError
from lab.core.operators.arguments import check_tensors, refuse_gradients
from lab.core.operators.backends import Backend, Implementation, resolve


def step(
    state: Float[Tensor, "B H V K"],
    q: Float[Tensor, "B Hq K"],
    k: Float[Tensor, "B Hk K"],
    v: Float[Tensor, "B Hv V"],
    g: Float[Tensor, "B H"],
    beta: Float[Tensor, "B H"],
    *,
    scale: float = 1.0,
    out: Float[Tensor, "B H V"] | None = None,
    backend: str | Backend = "auto",
) -> Float[Tensor, "B H V"]:
    """Advance the state by one token and return the token's output.

    S = exp(g) S (I - beta k kᵀ) + beta v kᵀ, then y = scale S q, head by head. The state is overwritten and there
    are no gradients. Arguments are as for `lab.core.delta_rule.gated_delta_rule`, without the token axis.

    Args:
        state: S, contiguous; usually float32 for any dtype of q, or a 16-bit dtype to accept its rounding.
        q: the token's query.
        k: the token's key.
        v: the token's value.
        g: logarithm of the decay, at most 0.
        beta: write strength: the fraction of the value stored under the key that is replaced.
        scale: factor of the output.
        out: buffer for the output, contiguous and in the dtype of v; it is returned. With it, the compiled loop
            allocates nothing.
        backend: "auto", a name, or the result of `lab.core.operators.backends.resolve` for "delta_rule_step".

    Raises:
        InputError: if shapes, dtypes or devices do not match, the state or output is not contiguous, or gradients are
            recorded.
        BackendError: if the requested backend cannot run here.
    """
    refuse_gradients("step", (state, q, k, v, g, beta))
    run = _implementation(backend, state.device, q.dtype)
    if run is step_portable:
        y = _new_output(state, v) if out is None else out
        # the compiled loop checks its own inputs
        if advance(state, q, k, v, g, beta, scale, y):
            return y
    _check(state, q, k, v, g, beta, out)
    checked: Tensor = run(state, q, k, v, g, beta, scale=scale, out=out)
    return checked


@cache
def _implementation(backend: str | Backend, device: torch.device, dtype: torch.dtype) -> Implementation:
    return resolve("delta_rule_step", backend, device, dtype).load()


def step_portable(
    state: Float[Tensor, "B H V K"],
    q: Float[Tensor, "B Hq K"],
    k: Float[Tensor, "B Hk K"],
    v: Float[Tensor, "B Hv V"],
    g: Float[Tensor, "B H"],
    beta: Float[Tensor, "B H"],
    *,
    scale: float = 1.0,
    out: Float[Tensor, "B H V"] | None = None,
) -> Float[Tensor, "B H V"]:
    """`step` in the compiled loop if it supports the device and dtypes, else in torch."""
    y = _new_output(state, v) if out is None else out
    if has_loop(state, q):
        q, k, v = (tensor.to(q.dtype).contiguous() for tensor in (q, k, v))
        g, beta = (tensor.to(state.dtype).contiguous() for tensor in (g, beta))
        if advance(state, q, k, v, g, beta, scale, y):
            return y
    # this also serves fake tensors without memory, as in tracing
    return _step_in_torch(state, q, k, v, g, beta, scale, y)


def step_reference(
    state: Float[Tensor, "B H V K"],
    q: Float[Tensor, "B Hq K"],
    k: Float[Tensor, "B Hk K"],
    v: Float[Tensor, "B Hv V"],
    g: Float[Tensor, "B H"],
    beta: Float[Tensor, "B H"],
    *,
    scale: float = 1.0,
    out: Float[Tensor, "B H V"] | None = None,
) -> Float[Tensor, "B H V"]:
    """`step` by definition, with the matrix I - beta k kᵀ written out."""
    dtype = torch.promote_types(state.dtype, torch.float32)
    query, key, value = (_by_head(tensor, state.shape[1]).to(dtype) for tensor in (q, k, v))
    strength = beta.to(dtype)[..., None, None]
    kept = torch.eye(k.shape[2], dtype=dtype, device=k.device) - strength * key[..., :, None] * key[..., None, :]
    written = strength * value[..., :, None] * key[..., None, :]
    after = g.to(dtype).exp()[..., None, None] * (state.to(dtype) @ kept) + written
    state.copy_(after)
    y = scale * (after @ query[..., None])[..., 0]
    return y.to(v.dtype) if out is None else out.copy_(y)


def _step_in_torch(
    state: Tensor, q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, scale: float, y: Tensor
) -> Tensor:
    batch, heads, value_dim, key_dim = state.shape
    dtype = torch.promote_types(state.dtype, torch.float32)
    query, key, value = (_by_head(tensor, heads).to(dtype).flatten(0, 1) for tensor in (q, k, v))
    # a 16-bit state is rounded once per step, not at every operation
    work = state.to(dtype)
    work.mul_(g.to(dtype).exp()[..., None, None])
    matrices = work.view(batch * heads, value_dim, key_dim)
    held = torch.bmm(matrices, key[..., None])
    written = (value[..., None] - held) * beta.to(dtype).reshape(-1, 1, 1)
    matrices.baddbmm_(written, key[:, None])
    read = torch.bmm(matrices, query[..., None]).view(batch, heads, value_dim)
    if work is not state:
        state.copy_(work)
    return y.copy_(read.mul_(scale))


def _new_output(state: Tensor, v: Tensor) -> Tensor:
    return v.new_empty(state.shape[:3])


def _by_head(tensor: Float[Tensor, "B heads width"], num_heads: int) -> Float[Tensor, "B H width"]:
    return tensor.repeat_interleave(num_heads // tensor.shape[1], dim=1)


def _check(state: Tensor, q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, out: Tensor | None) -> None:
    if state.ndim != 4 or 0 in state.shape[1:]:
        raise InputError(
            f"state has shape {tuple(state.shape)} but must be [B, H, V, K], none of the last 0; reshape it"
        )
    if not state.is_contiguous():
        raise InputError("state is not contiguous, but it is overwritten in place; allocate it as [B, H, V, K]")
    batch, heads, value_dim, key_dim = state.shape
    for name, tensor, axes in (("q", q, "B, Hq, K"), ("k", k, "B, Hk, K"), ("v", v, "B, Hv, V")):
        if tensor.ndim != 3 or tensor.shape[1] == 0 or heads % tensor.shape[1]:
            raise InputError(
                f"{name} has shape {tuple(tensor.shape)} but must be [{axes}], its heads a divisor of {heads}; "
                "reshape it"
            )
    check_tensors(
        state,
        (
            ("state", state, state.shape, "B, H, V, K"),
            ("q", q, (batch, q.shape[1], key_dim), "B, Hq, K"),
            ("k", k, (batch, k.shape[1], key_dim), "B, Hk, K"),
            ("v", v, (batch, v.shape[1], value_dim), "B, Hv, V"),
            ("g", g, (batch, heads), "B, H"),
            ("beta", beta, (batch, heads), "B, H"),
            ("out", out, (batch, heads, value_dim), "B, H, V"),
        ),
    )
    if out is not None and (out.dtype != v.dtype or not out.is_contiguous()):
        raise InputError(f"out has dtype {out.dtype} but must be contiguous and {v.dtype} like v; allocate it so")
