"""Wrappers of Mamba-2's official Triton kernels: `mamba_chunk_scan_combined`, `selective_state_update`.

The package is imported at the first call, without its `__init__`, which needs Mamba-1's CUDA extension and a hub client
that these kernels do not. On first use for a device and dtype, each kernel is compared with the portable step on a
small random input.
"""

# Letters: B batch, T tokens, H heads, G groups, P head_dim, N state_dim, S sequences.

import sys
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from itertools import pairwise
from types import ModuleType
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import softplus
from torch.utils.checkpoint import checkpoint

from lab.core.errors import BackendError
from lab.core.operators.sequences import sequence_starts
from lab.core.ssd.decode.step import step_portable
from lab.core.ssd.validation import SOFTPLUS_THRESHOLD, SsdOutput

# chunk sizes the kernels are tuned for; requests are rounded up to a power of two in this range
_SMALLEST_CHUNK, _DEFAULT_CHUNK = 16, 256

# Largest acceptable difference from the portable step, relative to the largest entry. Tensor cores round float32
# products to TF32's 10 bits.
_TOLERANCES = {torch.float32: 5e-3, torch.float16: 1e-2, torch.bfloat16: 5e-2}


def ssd(
    x: Float[Tensor, "B T H P"],
    dt: Float[Tensor, "B T H"],
    A: Float[Tensor, " H"],
    B: Float[Tensor, "B T G N"],
    C: Float[Tensor, "B T G N"],
    *,
    D: Float[Tensor, " H"] | Float[Tensor, "H P"] | None = None,
    dt_bias: Float[Tensor, " H"] | None = None,
    dt_softplus: bool = False,
    chunk_size: int | None = None,
    initial_state: Float[Tensor, "S H P N"] | None = None,
    cu_seqlens: Int[Tensor, " S1"] | None = None,
) -> SsdOutput:
    """As `lab.core.ssd.ssd`.

    Packed sequences without initial states run in one launch; their final states are computed in torch, because the
    kernel rounds them to the dtype of x and gives them no gradient. With initial states, which the kernel does not
    support for packed sequences, each sequence is a launch.

    Raises:
        BackendError: if the kernel fails its comparison with the portable step.
    """
    asked = _DEFAULT_CHUNK if chunk_size is None else chunk_size
    chunk = min(max(_SMALLEST_CHUNK, 1 << (asked - 1).bit_length()), _DEFAULT_CHUNK)
    _compare_once("ssd", x.device, x.dtype, x.shape[3], B.shape[3], chunk)
    options: dict[str, Any] = {"D": D, "dt_bias": dt_bias, "dt_softplus": dt_softplus, "chunk_size": chunk}
    starts = sequence_starts(cu_seqlens)
    if starts is None:
        return _scan(x, dt, A, B, C, initial_state=initial_state, **options)
    if initial_state is None:
        lengths = torch.tensor(starts, device=x.device).diff()
        numbers = torch.arange(len(lengths), dtype=torch.int32, device=x.device)
        seq_idx = numbers.repeat_interleave(lengths, output_size=x.shape[1])[None]
        y = _scan(x, dt, A, B, C, seq_idx=seq_idx, **options).y
        return SsdOutput(y, _final_states(x, dt, A, B, dt_bias, dt_softplus, starts))
    outputs = []
    for i, (start, stop) in enumerate(pairwise(starts)):
        x_i, dt_i, B_i, C_i = (tensor[:, start:stop] for tensor in (x, dt, B, C))
        outputs.append(_scan(x_i, dt_i, A, B_i, C_i, initial_state=initial_state[i : i + 1], **options))
    return SsdOutput(
        torch.cat([x[:, :0], *(output.y for output in outputs)], dim=1),
        torch.cat([initial_state[:0].float(), *(output.final_state for output in outputs)]),
    )


def step(
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
    """As `lab.core.ssd.decode.step.step`.

    Raises:
        BackendError: if the kernel fails its comparison with the portable step.
    """
    _compare_once("ssd_step", x.device, x.dtype, x.shape[2], B.shape[2])
    return _update(state, x, dt, A, B, C, D=D, dt_bias=dt_bias, dt_softplus=dt_softplus, out=out)


def _scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    *,
    D: Tensor | None,
    dt_bias: Tensor | None,
    dt_softplus: bool,
    chunk_size: int,
    initial_state: Tensor | None = None,
    seq_idx: Tensor | None = None,
) -> SsdOutput:
    if 0 in x.shape[:2]:  # launching an empty grid is an error
        state = x.new_zeros(x.shape[0], *x.shape[2:], B.shape[3], dtype=torch.float32)
        return SsdOutput(x.clone(), state if initial_state is None else initial_state.float())
    y, final_state = _kernel("ssd_combined", "mamba_chunk_scan_combined")(
        x,
        dt,
        A.float(),
        B,
        C,
        chunk_size,
        D=D,
        dt_bias=dt_bias,
        dt_softplus=dt_softplus,
        initial_states=None if initial_state is None else initial_state.float(),
        seq_idx=seq_idx,
        return_final_states=True,
    )
    return SsdOutput(y, final_state)


def _update(
    state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    *,
    D: Tensor | None,
    dt_bias: Tensor | None,
    dt_softplus: bool,
    out: Tensor | None,
) -> Tensor:
    heads, head_dim, state_dim = state.shape[1:]
    # Expanded, not copied: from strides of zero the kernel knows that a head has one decay. Version 2.3 does not accept
    # None for the bias and the skip connection, so pass zeros.
    zero = A.new_zeros(1)
    skip = zero if D is None else D
    y: Tensor = _kernel("selective_state_update", "selective_state_update")(
        state,
        x,
        dt[..., None].expand(-1, -1, head_dim),
        A[:, None, None].expand(-1, head_dim, state_dim),
        B,
        C,
        D=skip if skip.ndim == 2 else skip[:, None].expand(heads, head_dim),
        dt_bias=(zero if dt_bias is None else dt_bias)[:, None].expand(heads, head_dim),
        dt_softplus=dt_softplus,
    )
    return y if out is None else out.copy_(y)


def _final_states(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, dt_bias: Tensor | None, dt_softplus: bool, starts: tuple[int, ...]
) -> Float[Tensor, "S H P N"]:
    """sum_t exp(c_end - c_t) dt_t x_t B_t' of every packed sequence, c the running sum of dt A; checkpointed."""
    states: Tensor = checkpoint(
        _summed_states, x, dt, A, B, dt_bias, dt_softplus, starts, use_reentrant=False, preserve_rng_state=False
    )
    return states


def _summed_states(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, dt_bias: Tensor | None, dt_softplus: bool, starts: tuple[int, ...]
) -> Tensor:
    num_heads, head_dim = x.shape[2:]
    num_groups, state_dim = B.shape[2:]
    size = dt[0].float() if dt_bias is None else dt[0].float() + dt_bias.float()
    size = softplus(size, threshold=SOFTPLUS_THRESHOLD) if dt_softplus else size
    # float64: differences of sums over 100,000 tokens must be accurate to float32 precision
    sums = (size * A.float()).double().cumsum(dim=0)
    states = [x.new_zeros(0, num_heads, head_dim, state_dim, dtype=torch.float32)]
    for start, stop in pairwise(starts):
        if start == stop:
            states.append(states[0].new_zeros(1, num_heads, head_dim, state_dim))
            continue
        share = torch.exp(sums[stop - 1] - sums[start:stop]).float() * size[start:stop]
        weighted = (share[..., None] * x[0, start:stop]).reshape(stop - start, num_groups, -1)
        state = torch.einsum("tgr,tgn->grn", weighted, B[0, start:stop].float())
        states.append(state.reshape(1, num_heads, head_dim, state_dim))
    return torch.cat(states)


@cache
def _kernel(module: str, name: str) -> Callable[..., Any]:
    """A function of the package, imported without running the package's `__init__`."""
    spec = find_spec("mamba_ssm")
    if spec is None or spec.submodule_search_locations is None:
        raise BackendError("backend='mamba_ssm' is not installed; `lab doctor` says how to add it")
    stand_in = ModuleType("mamba_ssm")
    stand_in.__path__ = list(spec.submodule_search_locations)
    # gone again afterwards: others must not take the stand-in for the package
    before = sys.modules.setdefault("mamba_ssm", stand_in)
    try:
        if module == "ssd_combined":
            from mamba_ssm.ops.triton import ssd_combined as loaded  # noqa: PLC0415
        else:
            from mamba_ssm.ops.triton import selective_state_update as loaded  # noqa: PLC0415
    finally:
        if before is stand_in:
            del sys.modules["mamba_ssm"]
    kernel: Callable[..., Any] = getattr(loaded, name)
    return kernel


@cache
def _compare_once(
    operator: str, device: torch.device, dtype: torch.dtype, head_dim: int, state_dim: int, chunk_size: int = 0
) -> None:
    """Compare a kernel with the portable step on a few tokens, in sizes for which it is compiled anyway.

    Upstream has fixed kernels that were silently wrong on one GPU generation.
    """
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, device="cpu").to(device)

    num_tokens = chunk_size + 5 if chunk_size else 1  # covers the state passed between chunks
    x = drawn(1, num_tokens, 4, head_dim).to(dtype)
    B, C = (drawn(1, num_tokens, 2, state_dim).to(dtype) for _ in range(2))
    dt, A = drawn(1, num_tokens, 4), -drawn(4).exp()
    initial_state = drawn(1, 4, head_dim, state_dim)
    options: dict[str, Any] = {"D": drawn(4), "dt_bias": drawn(4), "dt_softplus": True}
    portable_state, state = initial_state.clone(), initial_state.clone()
    with torch.no_grad():
        portable_y = torch.stack(
            [
                step_portable(portable_state, x[:, t], dt[:, t], A, B[:, t], C[:, t], **options)
                for t in range(num_tokens)
            ],
            dim=1,
        )
        if operator == "ssd_step":
            y = _update(state, x[:, 0], dt[:, 0], A, B[:, 0], C[:, 0], out=None, **options)[:, None]
        else:
            y, state = _scan(x, dt, A, B, C, initial_state=initial_state, chunk_size=chunk_size, **options)
    for name, result, expected in (("output", y, portable_y), ("state", state, portable_state)):
        difference = float((result.float() - expected.float()).abs().max() / expected.float().abs().max())
        # also true for NaN
        if not difference <= _TOLERANCES[dtype]:
            raise BackendError(
                f"{operator} backend='mamba_ssm' differs from the portable one by {difference:.2g} of its largest "
                f"{name} on {device} in {dtype} (allowed: {_TOLERANCES[dtype]:g}); choose another backend"
            )
