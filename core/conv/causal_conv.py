"""Causal depthwise convolution over tokens, with a state for continuing a sequence.

y[t] = activation(bias + sum_w weight[:, w] x[t - (W-1) + w]): the last tap multiplies the current token. The state is
the W-1 inputs before the first token, [B, C, W-1], oldest first: zero, or the final state of the preceding part.
"""

# Letters: B batch, T tokens, C channels, W taps, S sequences.

from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import silu

from lab.core.conv.blocks import conv_portable
from lab.core.errors import BackendError, InputError
from lab.core.operators.arguments import check_tensors, refuse_gradients
from lab.core.operators.backends import Backend, resolve
from lab.core.operators.sequences import count_sequences, sequence_starts

Activation = Literal["silu"] | None

# largest acceptable difference of the official kernel from the portable backend, relative to the largest output
_TOLERANCES = {torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 3e-2}


class ConvOutput(NamedTuple):
    """Result of the convolution.

    Attributes:
        y: outputs, in the dtype of x.
        final_state: the last W-1 inputs of each sequence, oldest first, in the dtype of x.
    """

    y: Float[Tensor, "B T C"]
    final_state: Float[Tensor, "S C W1"]


def causal_conv(
    x: Float[Tensor, "B T C"],
    weight: Float[Tensor, "C W"],
    bias: Float[Tensor, " C"] | None = None,
    *,
    activation: Activation = None,
    initial_state: Float[Tensor, "S C W1"] | None = None,
    cu_seqlens: Int[Tensor, " S1"] | None = None,
    backend: str | Backend = "auto",
) -> ConvOutput:
    """Convolve every channel with its W taps, accumulating in float32 (float64 for float64); differentiable.

    Args:
        x: inputs.
        weight: taps, the last one for the current token; W >= 1.
        bias: added before the activation.
        activation: "silu", or None for none.
        initial_state: the W1 = W - 1 inputs before the first token; zero by default. S is the batch, or the number of
            packed sequences.
        cu_seqlens: boundaries of packed sequences, from 0 to T, for a batch of one; sequences are independent.
        backend: "auto", a name, or the result of `lab.core.operators.backends.resolve` for "causal_conv".

    Raises:
        InputError: if shapes, dtypes or devices do not match, or the activation is unknown.
        BackendError: if the requested backend cannot do this here.
    """
    starts = _check(x, weight, bias, activation, initial_state, cu_seqlens)
    run = _choose("causal_conv", backend, x, weight, initial_state if starts is not None else None).load()
    y: Tensor = run(x, weight, bias, activation=activation, initial_state=initial_state, starts=starts)
    return ConvOutput(y, _final_state(x, weight.shape[1] - 1, initial_state, starts))


def conv_step(
    state: Float[Tensor, "B C W1"],
    x: Float[Tensor, "B C"],
    weight: Float[Tensor, "C W"],
    bias: Float[Tensor, " C"] | None = None,
    *,
    activation: Activation = None,
    backend: str | Backend = "auto",
) -> Float[Tensor, "B C"]:
    """One token of `causal_conv`; the state is shifted by one token in place. There are no gradients.

    Args:
        state: the W1 = W - 1 inputs before this one, oldest first.
        x: the token's input.
        weight: as for `causal_conv`.
        bias: as for `causal_conv`.
        activation: as for `causal_conv`.
        backend: "auto", a name, or the result of `lab.core.operators.backends.resolve` for "causal_conv_step".

    Raises:
        InputError: if shapes, dtypes or devices do not match, or gradients are recorded.
        BackendError: if the requested backend cannot do this here.
    """
    if x.ndim != 2:
        raise InputError(f"x has shape {tuple(x.shape)} but must be [B, C]; give one token")
    _check(x[:, None], weight, bias, activation, state, None)
    if state.dtype != x.dtype:
        raise InputError(f"state has dtype {state.dtype} but holds inputs, which have {x.dtype}; allocate it so")
    refuse_gradients("conv_step", (state, x, weight, bias))
    run = _choose("causal_conv_step", backend, x, weight, None).load()
    y: Tensor = run(state, x, weight, bias, activation=activation)
    return y


def conv_reference(
    x: Float[Tensor, "B T C"],
    weight: Float[Tensor, "C W"],
    bias: Float[Tensor, " C"] | None,
    *,
    activation: Activation,
    initial_state: Float[Tensor, "S C W1"] | None,
    starts: Sequence[int] | None,
) -> Float[Tensor, "B T C"]:
    """The definition, token by token."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    num_before = weight.shape[1] - 1
    batch, num_tokens, num_channels = x.shape
    pieces = [(slice(None), 0, num_tokens)] if starts is None else _pieces(starts)
    outputs = [x.new_zeros(batch, 0, num_channels, dtype=dtype)]
    for rows, start, stop in pieces:
        before = x.new_zeros(batch, num_channels, num_before) if initial_state is None else initial_state[rows]
        inputs = torch.cat([before.transpose(1, 2), x[:, start:stop]], dim=1).to(dtype)
        for t in range(stop - start):
            y = (inputs[:, t : t + num_before + 1] * weight.to(dtype).T).sum(dim=1, keepdim=True)
            outputs.append(y if bias is None else y + bias.to(dtype))
    joined = torch.cat(outputs, dim=1)
    return (silu(joined) if activation == "silu" else joined).to(x.dtype)


def conv_cuda(
    x: Float[Tensor, "B T C"],
    weight: Float[Tensor, "C W"],
    bias: Float[Tensor, " C"] | None,
    *,
    activation: Activation,
    initial_state: Float[Tensor, "S C W1"] | None,
    starts: Sequence[int] | None,
) -> Float[Tensor, "B T C"]:
    """The official kernel, compared with the portable backend on first use.

    Raises:
        BackendError: if the two differ.
    """
    _compare_once(x.device, x.dtype)
    return _launch(x, weight, bias, activation, initial_state, starts)


def conv_step_reference(
    state: Float[Tensor, "B C W1"],
    x: Float[Tensor, "B C"],
    weight: Float[Tensor, "C W"],
    bias: Float[Tensor, " C"] | None,
    *,
    activation: Activation,
) -> Float[Tensor, "B C"]:
    """The definition for one token; the state is rebuilt."""
    y = conv_reference(x[:, None], weight, bias, activation=activation, initial_state=state, starts=None)
    state.copy_(_final_state(x[:, None], state.shape[2], state, None))
    return y[:, 0]


def conv_step_cuda(
    state: Float[Tensor, "B C W1"],
    x: Float[Tensor, "B C"],
    weight: Float[Tensor, "C W"],
    bias: Float[Tensor, " C"] | None,
    *,
    activation: Activation,
) -> Float[Tensor, "B C"]:
    """The official kernel for one token; as `conv_cuda`."""
    _compare_once(x.device, x.dtype)
    return _launch_step(state, x, weight, bias, activation)


def _launch(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: Activation,
    initial_state: Tensor | None,
    starts: Sequence[int] | None,
) -> Tensor:
    from causal_conv1d import causal_conv1d_fn  # noqa: PLC0415

    sequence = None
    if starts is not None:
        lengths = torch.tensor(starts, device=x.device).diff()
        index = torch.arange(len(starts) - 1, dtype=torch.int32, device=x.device)
        sequence = index.repeat_interleave(lengths, output_size=x.shape[1])[None]
    # channels contiguous in inputs and state: the only layout in which the kernel supports states and packed sequences
    before = None if initial_state is None else initial_state.to(x.dtype).mT.contiguous().mT
    y: Tensor = causal_conv1d_fn(
        x.contiguous().mT,
        weight.contiguous(),
        None if bias is None else bias.to(weight.dtype),
        seq_idx=sequence,
        initial_states=before,
        activation=activation,
    )
    return y.mT


def _launch_step(state: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, activation: Activation) -> Tensor:
    from causal_conv1d import causal_conv1d_update  # noqa: PLC0415

    shift = None if bias is None else bias.to(weight.dtype)
    y: Tensor = causal_conv1d_update(x, state, weight.contiguous(), shift, activation)
    return y


@cache
def _compare_once(device: torch.device, dtype: torch.dtype) -> None:
    """Compare both kernels with the portable backend on the same few tokens."""
    generator = torch.Generator().manual_seed(0)
    x, weight, bias, state = (
        torch.randn(*shape, generator=generator, device="cpu").to(device, dtype)
        for shape in ((1, 40, 16), (16, 4), (16,), (1, 16, 3))
    )
    with torch.no_grad():
        portable_y = conv_portable(x, weight, bias, activation="silu", initial_state=state, starts=None)
        result = _launch(x, weight, bias, "silu", state, None)
        stepped = _launch_step(state.clone(), x[:, 0], weight, bias, "silu")
    for name, y, expected in (("sequence", result, portable_y), ("step", stepped, portable_y[:, 0])):
        difference = float((y.float() - expected.float()).abs().max() / expected.float().abs().max())
        # also true for NaN
        if not difference <= _TOLERANCES[dtype]:
            raise BackendError(
                f"causal_conv backend='causal_conv1d' differs from the portable one by {difference:.2g} of the largest "
                f"output of a {name} on {device} in {dtype}; choose backend='portable'"
            )


def _choose(operator: str, backend: str | Backend, x: Tensor, weight: Tensor, packed_state: Tensor | None) -> Backend:
    """The backend; the portable one if `auto` preferred the official kernel but it does not support the shapes."""
    chosen = resolve(operator, backend, x.device, x.dtype)
    if chosen.name != "causal_conv1d":
        return chosen
    lacking = _lacking(x, weight.shape[1], packed_state)
    if lacking is None:
        return chosen
    if backend != "auto":
        raise BackendError(f"{operator} backend='causal_conv1d' {lacking}; use backend='auto' or 'portable'")
    return resolve(operator, "portable", x.device, x.dtype)


def _lacking(x: Tensor, num_taps: int, packed_state: Tensor | None) -> str | None:
    """What the official kernel does not support of a call; None if it supports everything."""
    if not 2 <= num_taps <= 4:
        return f"has 2 to 4 taps, not {num_taps}"
    if x.shape[-1] % 8:
        return f"takes channels in eights, not {x.shape[-1]}"
    if x.numel() == 0:
        return "takes no empty batch or sequence"
    return None if packed_state is None else "takes no initial_state with packed sequences"


def _final_state(
    x: Float[Tensor, "B T C"],
    num_before: int,
    initial_state: Float[Tensor, "S C W1"] | None,
    starts: Sequence[int] | None,
) -> Float[Tensor, "S C W1"]:
    """A copy of the last inputs, since the next step overwrites them."""
    if starts is not None:
        states = [
            _final_state(x[:, start:stop], num_before, None if initial_state is None else initial_state[row], None)
            for row, start, stop in _pieces(starts)
        ]
        return torch.cat([x.new_zeros(0, x.shape[2], num_before), *states])
    batch, num_tokens, num_channels = x.shape
    last = x[:, max(num_tokens - num_before, 0) :].transpose(1, 2)
    if num_tokens < num_before:
        before = x.new_zeros(batch, num_channels, num_before) if initial_state is None else initial_state.to(x.dtype)
        last = torch.cat([before[:, :, num_tokens:], last], dim=2)
    return last.clone(memory_format=torch.contiguous_format)


def _pieces(starts: Sequence[int]) -> list[tuple[slice, int, int]]:
    """Row of the initial state, first token and end of every packed sequence."""
    return [(slice(i, i + 1), start, stop) for i, (start, stop) in enumerate(pairwise(starts))]


def _check(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: Activation,
    before: Tensor | None,
    cu_seqlens: Tensor | None,
) -> tuple[int, ...] | None:
    if x.ndim != 3:
        raise InputError(f"x has shape {tuple(x.shape)} but must be [B, T, C]; reshape it")
    batch, num_tokens, num_channels = x.shape
    if weight.ndim != 2 or weight.shape[1] == 0:
        raise InputError(f"weight has shape {tuple(weight.shape)} but must be [C, W] with W of 1 or more; reshape it")
    if activation not in ("silu", None):
        raise InputError(f"activation={activation!r} is unknown; give 'silu' or None")
    num_sequences = batch if cu_seqlens is None else count_sequences(cu_seqlens, batch, num_tokens)
    num_taps = weight.shape[1]
    check_tensors(
        x,
        (
            ("x", x, x.shape, "B, T, C"),
            ("weight", weight, (num_channels, num_taps), "C, W"),
            ("bias", bias, (num_channels,), "C"),
            ("the state", before, (num_sequences, num_channels, num_taps - 1), "S, C, W-1"),
        ),
    )
    return sequence_starts(cu_seqlens)
