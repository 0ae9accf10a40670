"""The Mamba-2 mixer as the Mamba-2 layer of granitemoehybrid and falcon_h1.

The layer's x, B, C and z are values, keys, queries and the gate's logits, with as many groups as heads, so that its
grouped norm is one for each head.
"""

# Letters: H heads, G key/value heads, P head_dim.

from typing import TYPE_CHECKING, cast

import torch

from lab.core.mixers.base import Mixer, MixerShape
from lab.core.mixers.stock_block import Biases, BlockKind, StockBlock, repeated, shared, split_vkq
from lab.core.mixers.tensor_rules import TensorRule, Tensors, derived, renamed, with_zeros

if TYPE_CHECKING:
    from lab.core.mixers.mamba2 import Mamba2


def _rules(mixer: Mixer, public: str, ours: str, biases: Biases) -> list[TensorRule]:
    """See `StockBlock.rules`."""
    found = cast("Mamba2", mixer)
    shape = found.shape
    width, num_heads = shape.num_heads * shape.head_dim, shape.num_heads
    decay = TensorRule((f"{public}.A_log",), (f"{ours}.A_log",))
    inputs = _inputs(shape, public, ours)
    outputs = TensorRule((f"{public}.out_proj.weight",), (f"{ours}.o_proj.weight",))
    rules = [
        _convolved(shape, f"{public}.conv1d.weight", f"{ours}.conv1d.weight"),
        _norm(shape, public, ours),
        *renamed(public, ours, {"dt_bias": "dt_bias"}),
    ]
    if found.conv1d is not None and found.conv1d.bias is not None:
        rules.append(_convolved(shape, f"{public}.conv1d.bias", f"{ours}.conv1d.bias"))
    if found.D is None:
        decay = with_zeros(decay, {f"{public}.D": (num_heads,)})
    else:
        rules += renamed(public, ours, {"D": "D"})
    if found.vkq_proj.bias is not None:
        rules.append(_input_bias(shape, public, ours))
    elif biases.inputs:
        inputs = with_zeros(inputs, {f"{public}.in_proj.bias": (4 * width + num_heads,)})
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


def _inputs(shape: MixerShape, public: str, ours: str) -> TensorRule:
    """One projection with the rows of gate, values, keys, queries and step sizes."""
    width = shape.num_heads * shape.head_dim

    def write(tensors: Tensors) -> Tensors:
        gate, vkq, step_sizes = tensors
        v, k, q = split_vkq(vkq, shape)
        return [torch.cat([gate, repeated(v, shape), repeated(k, shape), q, step_sizes])]

    def read(tensors: Tensors) -> Tensors:
        gate, v, k, q, step_sizes = torch.split(tensors[0], [width] * 4 + [shape.num_heads])
        return [gate.clone(), torch.cat([shared(v, shape), shared(k, shape), q]), step_sizes.clone()]

    names = tuple(f"{ours}.{name}.weight" for name in ("g_proj", "vkq_proj", "in_proj"))
    return derived((f"{public}.in_proj.weight",), names, read=read, write=write)


def _convolved(shape: MixerShape, public: str, ours: str) -> TensorRule:
    """Taps or biases of the channels of values, keys and queries."""

    def write(tensors: Tensors) -> Tensors:
        v, k, q = split_vkq(tensors[0], shape)
        return [torch.cat([repeated(v, shape), repeated(k, shape), q])]

    def read(tensors: Tensors) -> Tensors:
        v, k, q = tensors[0].chunk(3)
        return [torch.cat([shared(v, shape), shared(k, shape), q])]

    return derived((public,), (ours,), read=read, write=write)


def _norm(shape: MixerShape, public: str, ours: str) -> TensorRule:
    """One weight for every head; here all heads have the same."""
    return derived(
        (f"{public}.norm.weight",),
        (f"{ours}.g_norm.weight",),
        read=lambda tensors: [tensors[0][: shape.head_dim].clone()],
        write=lambda tensors: [tensors[0].repeat(shape.num_heads)],
    )


def _input_bias(shape: MixerShape, public: str, ours: str) -> TensorRule:
    """Biases of values, keys and queries; gates and step sizes have none."""
    width = shape.num_heads * shape.head_dim

    def write(tensors: Tensors) -> Tensors:
        v, k, q = split_vkq(tensors[0], shape)
        gate, step_sizes = q.new_zeros(width), q.new_zeros(shape.num_heads)
        return [torch.cat([gate, repeated(v, shape), repeated(k, shape), q, step_sizes])]

    def read(tensors: Tensors) -> Tensors:
        v, k, q = tensors[0][width : 4 * width].chunk(3)
        return [torch.cat([shared(v, shape), shared(k, shape), q])]

    return derived((f"{public}.in_proj.bias",), (f"{ours}.vkq_proj.bias",), read=read, write=write)


MAMBA2_BLOCK = StockBlock(kind=BlockKind.mamba2, rules=_rules, obstacle=_obstacle)
