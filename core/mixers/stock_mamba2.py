"""The Mamba-2 mixer as the Mamba-2 layer of granitemoehybrid and falcon_h1.

The layer's x, B, C and z are values, keys, queries and the gate's logits, with as many groups as heads, so that its
grouped norm is one for each head. Two timescales of a head are two heads of one group.
"""

# Letters: H heads, G key/value heads, P head_dim.

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from lab.core.mixers.base import Mixer, MixerShape
from lab.core.mixers.stock_block import Biases, BlockKind, StockBlock, repeated, shared, split_vkq
from lab.core.mixers.tensor_rules import TensorRule, Tensors, derived, renamed, with_zeros

if TYPE_CHECKING:
    from lab.core.mixers.mamba2 import Mamba2


def _rules(mixer: Mixer, public: str, ours: str, biases: Biases) -> list[TensorRule]:
    """See `StockBlock.rules`."""
    found = cast("Mamba2", mixer)
    shape, states = found.shape, found.states_per_head
    num_states = states * shape.num_heads
    decay = TensorRule((f"{public}.A_log",), (f"{ours}.A_log",))
    inputs = _inputs(shape, states, public, ours)
    outputs = _outputs(shape, states, public, ours)
    rules = [
        _convolved(shape, states, f"{public}.conv1d.weight", f"{ours}.conv1d.weight"),
        _norm(shape, states, public, ours),
        *renamed(public, ours, {"dt_bias": "dt_bias"}),
    ]
    if found.conv1d is not None and found.conv1d.bias is not None:
        rules.append(_convolved(shape, states, f"{public}.conv1d.bias", f"{ours}.conv1d.bias"))
    if found.D is None:
        decay = with_zeros(decay, {f"{public}.D": (num_states,)})
    else:
        rules += renamed(public, ours, {"D": "D"})
    if found.vkq_proj.bias is not None:
        rules.append(_input_bias(shape, states, public, ours))
    elif biases.inputs:
        inputs = with_zeros(inputs, {f"{public}.in_proj.bias": (sum(_widths(shape, states)),)})
    if found.o_proj.bias is not None:
        rules += renamed(public, ours, {"out_proj.bias": "o_proj.bias"})
    elif biases.outputs:
        outputs = with_zeros(outputs, {f"{public}.out_proj.bias": (shape.hidden_size,)})
    return [inputs, *rules, decay, outputs]


def _obstacle(mixer: Mixer) -> str | None:
    """See `StockBlock.obstacle`."""
    if cast("Mamba2", mixer).options.gate_at_one:
        return "student.mixer.gate_at_one=true: the gate of a stock layer is SiLU; false would do"
    return None


def _widths(shape: MixerShape, states: int) -> list[int]:
    """Rows of gate, values, keys, queries and step sizes."""
    width = shape.num_heads * shape.head_dim
    return [states * width, states * width, width, width, states * shape.num_heads]


def _inputs(shape: MixerShape, states: int, public: str, ours: str) -> TensorRule:
    """One projection with the rows of gate, values, keys, queries and step sizes."""

    def write(tensors: Tensors) -> Tensors:
        gate, vkq, step_sizes = tensors
        return [torch.cat([gate, _repeated(vkq, shape, states), step_sizes])]

    def read(tensors: Tensors) -> Tensors:
        gate, *vkq, step_sizes = torch.split(tensors[0], _widths(shape, states))
        return [gate.clone(), _shared(vkq, shape, states), step_sizes.clone()]

    names = tuple(f"{ours}.{name}.weight" for name in ("g_proj", "vkq_proj", "in_proj"))
    return derived((f"{public}.in_proj.weight",), names, read=read, write=write)


def _convolved(shape: MixerShape, states: int, public: str, ours: str) -> TensorRule:
    """Taps or biases of the channels of values, keys and queries."""

    def write(tensors: Tensors) -> Tensors:
        return [_repeated(tensors[0], shape, states)]

    def read(tensors: Tensors) -> Tensors:
        return [_shared(torch.split(tensors[0], _widths(shape, states)[1:4]), shape, states)]

    return derived((public,), (ours,), read=read, write=write)


def _norm(shape: MixerShape, states: int, public: str, ours: str) -> TensorRule:
    """One weight for every head; here all heads have the same."""
    return derived(
        (f"{public}.norm.weight",),
        (f"{ours}.g_norm.weight",),
        read=lambda tensors: [tensors[0][: states * shape.head_dim].clone()],
        write=lambda tensors: [tensors[0].repeat(shape.num_heads)],
    )


def _outputs(shape: MixerShape, states: int, public: str, ours: str) -> TensorRule:
    """The output projection; a head's output is the mean of its states, so each of two has one half of it."""
    names = (f"{public}.out_proj.weight",), (f"{ours}.o_proj.weight",)
    if states == 1:
        return TensorRule(*names)

    def write(tensors: Tensors) -> Tensors:
        by_head = tensors[0].reshape(-1, shape.num_heads, 1, shape.head_dim) / states
        return [by_head.expand(-1, -1, states, -1).flatten(1)]

    def read(tensors: Tensors) -> Tensors:
        by_head = tensors[0].reshape(-1, shape.num_heads, states, shape.head_dim)
        return [(by_head[:, :, 0] * states).flatten(1)]

    return derived(*names, read=read, write=write)


def _input_bias(shape: MixerShape, states: int, public: str, ours: str) -> TensorRule:
    """Biases of values, keys and queries; gates and step sizes have none."""
    gate, *_, step_sizes = _widths(shape, states)

    def write(tensors: Tensors) -> Tensors:
        vkq = _repeated(tensors[0], shape, states)
        return [torch.cat([vkq.new_zeros(gate), vkq, vkq.new_zeros(step_sizes)])]

    def read(tensors: Tensors) -> Tensors:
        return [_shared(torch.split(tensors[0], _widths(shape, states))[1:4], shape, states)]

    return derived((f"{public}.in_proj.bias",), (f"{ours}.vkq_proj.bias",), read=read, write=write)


def _repeated(vkq: Tensor, shape: MixerShape, states: int) -> Tensor:
    """Rows of values for each state, of keys and queries for each head."""
    v, k, q = split_vkq(vkq, shape)
    return torch.cat([repeated(v, shape, states), repeated(k, shape), q])


def _shared(parts: Sequence[Tensor], shape: MixerShape, states: int) -> Tensor:
    """The inverse of `_repeated`."""
    v, k, q = parts
    return torch.cat([shared(v, shape, states), shared(k, shape), q])


MAMBA2_BLOCK = StockBlock(kind=BlockKind.mamba2, rules=_rules, obstacle=_obstacle)
