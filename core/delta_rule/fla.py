"""Wrappers of flash-linear-attention's Triton kernels: `chunk_` and `fused_recurrent_gated_delta_rule`.

The package is imported at the first call. On first use for a device, dtype and size, each kernel is compared with the
portable backend on a small random input.
"""

# Letters: B batch, T tokens, H heads, Hq, Hk, Hv heads of q, k and v, K key_dim, V value_dim, S sequences.

from collections.abc import Callable
from functools import cache
from math import lcm
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from lab.core.delta_rule.chunked import autograd
from lab.core.delta_rule.decode.step import step_portable
from lab.core.delta_rule.validation import DeltaRuleOutput
from lab.core.errors import BackendError

# chunk sizes the kernel supports; requests are rounded up to a power of two in this range
_SMALLEST_CHUNK, _DEFAULT_CHUNK = 16, 64
_WIDEST_KEY = 256

# Largest acceptable difference from the portable backend, relative to the largest entry. Tensor cores round float32
# products to TF32's 10 bits.
_TOLERANCES = {torch.float32: 5e-3, torch.float16: 1e-2, torch.bfloat16: 5e-2}


def gated_delta_rule(
    q: Float[Tensor, "B T Hq K"],
    k: Float[Tensor, "B T Hk K"],
    v: Float[Tensor, "B T Hv V"],
    g: Float[Tensor, "B T H"],
    beta: Float[Tensor, "B T H"],
    *,
    scale: float = 1.0,
    chunk_size: int | None = None,
    initial_state: Float[Tensor, "S H V K"] | None = None,
    cu_seqlens: Int[Tensor, " S1"] | None = None,
) -> DeltaRuleOutput:
    """As `lab.core.delta_rule.gated_delta_rule`.

    Raises:
        BackendError: if keys are wider than the kernel supports, or its result differs from the portable backend's.
    """
    key_dim, value_dim = k.shape[3], v.shape[3]
    if key_dim > _WIDEST_KEY:
        raise BackendError(
            f"delta_rule backend='fla' takes keys of up to {_WIDEST_KEY} channels, not {key_dim}; use backend='chunked'"
        )
    asked = _DEFAULT_CHUNK if chunk_size is None else chunk_size
    chunk = min(max(_SMALLEST_CHUNK, 1 << (asked - 1).bit_length()), _DEFAULT_CHUNK)
    _compare_once("delta_rule", q.device, q.dtype, key_dim, value_dim, chunk)
    return _scan(q, k, v, g, beta, float(scale), chunk, initial_state, cu_seqlens)


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
) -> Float[Tensor, "B H V"]:
    """As `lab.core.delta_rule.decode.step.step`. The kernel writes a new state, which is copied.

    Raises:
        BackendError: if the kernel fails its comparison with the portable step.
    """
    _compare_once("delta_rule_step", q.device, q.dtype, k.shape[2], v.shape[2])
    y = _recur(state, q, k, v, g, beta, float(scale))
    return y if out is None else out.copy_(y)


def _scan(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    scale: float,
    chunk_size: int,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None = None,
) -> DeltaRuleOutput:
    num_heads, value_dim, key_dim = g.shape[2], v.shape[3], k.shape[3]
    if 0 in g.shape[:2]:  # launching an empty grid is an error
        num_sequences = len(g) if cu_seqlens is None else len(cu_seqlens) - 1
        state = v.new_zeros(num_sequences, num_heads, value_dim, key_dim, dtype=torch.float32)
        y = v.new_zeros(*g.shape, value_dim)
        return DeltaRuleOutput(y, state if initial_state is None else initial_state.float())
    y, final_state = _kernel("chunk_gated_delta_rule")(
        *_as_it_shares(q, k, v, num_heads),
        g=g.float(),
        beta=beta.float(),
        scale=scale,
        initial_state=None if initial_state is None else initial_state.float(),
        output_final_state=True,
        state_v_first=True,
        cu_seqlens=None if cu_seqlens is None else cu_seqlens.to(g.device, torch.int64),
        chunk_size=chunk_size,
    )
    return DeltaRuleOutput(y, final_state)


def _recur(
    state: Tensor, q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, scale: float
) -> Float[Tensor, "B H V"]:
    y, final_state = _kernel("fused_recurrent_gated_delta_rule")(
        *_as_it_shares(q[:, None], k[:, None], v[:, None], g.shape[1]),
        g=g[:, None].float(),
        beta=beta[:, None].float(),
        scale=scale,
        initial_state=state.float(),
        output_final_state=True,
        state_v_first=True,
    )
    state.copy_(final_state)
    token: Tensor = y[:, 0]
    return token


def _as_it_shares(q: Tensor, k: Tensor, v: Tensor, num_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """The kernels only share heads of q and k, equally many of each; everything else is repeated."""
    of_pairs = lcm(q.shape[2], k.shape[2])
    q, k, v = (
        tensor.repeat_interleave(size // tensor.shape[2], dim=2) if size != tensor.shape[2] else tensor
        for tensor, size in ((q, of_pairs), (k, of_pairs), (v, num_heads))
    )
    return q, k, v


@cache
def _kernel(name: str) -> Callable[..., Any]:
    from fla.ops import gated_delta_rule as loaded  # noqa: PLC0415

    kernel: Callable[..., Any] = getattr(loaded, name)
    return kernel


@cache
def _compare_once(
    operator: str, device: torch.device, dtype: torch.dtype, key_dim: int, value_dim: int, chunk_size: int = 0
) -> None:
    """Compare a kernel with the portable backend on a few tokens, in sizes for which it is compiled anyway.

    An untested Triton release or GPU can make it silently wrong.
    """
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, device="cpu").to(device)

    num_tokens = chunk_size + 5 if chunk_size else 1  # covers the state passed between chunks
    q, k = (normalize(drawn(1, num_tokens, 2, key_dim), dim=-1).to(dtype) for _ in range(2))
    v = drawn(1, num_tokens, 4, value_dim).to(dtype)
    g, beta = -drawn(1, num_tokens, 4).exp() / 5, torch.sigmoid(drawn(1, num_tokens, 4))
    initial_state = drawn(1, 4, value_dim, key_dim)
    portable_state, state = initial_state.clone(), initial_state.clone()
    with torch.no_grad():
        if operator == "delta_rule_step":
            token = q[:, 0], k[:, 0], v[:, 0], g[:, 0], beta[:, 0]
            portable_y, y = step_portable(portable_state, *token), _recur(state, *token, 1.0)
        else:
            portable_y, portable_state = autograd.gated_delta_rule(q, k, v, g, beta, initial_state=initial_state)
            y, state = _scan(q, k, v, g, beta, 1.0, chunk_size, initial_state)
    for name, result, expected in (("output", y, portable_y), ("state", state, portable_state)):
        difference = float((result.float() - expected.float()).abs().max() / expected.float().abs().max())
        # also true for NaN
        if not difference <= _TOLERANCES[dtype]:
            raise BackendError(
                f"{operator} backend='fla' differs from the portable one by {difference:.2g} of its largest {name} on "
                f"{device} in {dtype} (allowed: {_TOLERANCES[dtype]:g}); choose another backend"
            )
