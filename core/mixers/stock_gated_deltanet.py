"""The Gated DeltaNet mixer as the linear attention of qwen3_next, with as many key heads as value heads."""

# Letters: H heads, G key/value heads, P head_dim.

from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from lab.core.mixers.base import Mixer, MixerShape
from lab.core.mixers.stock_block import Biases, BlockKind, StockBlock, repeated, shared, split_vkq
from lab.core.mixers.tensor_rules import TensorRule, Tensors, derived, renamed

if TYPE_CHECKING:
    from lab.core.mixers.gated_deltanet import GatedDeltaNet


def _rules(mixer: Mixer, public: str, ours: str, biases: Biases) -> list[TensorRule]:
    """See `StockBlock.rules`."""
    assert not biases.inputs, "the stock layer has none"
    assert not biases.outputs, "the stock layer has none"
    shape = cast("GatedDeltaNet", mixer).shape
    same = {"norm.weight": "g_norm.weight", "out_proj.weight": "o_proj.weight", "A_log": "A_log", "dt_bias": "dt_bias"}
    return [
        _inputs(shape, public, ours),
        TensorRule(
            (f"{public}.in_proj_ba.weight",),
            (f"{ours}.b_proj.weight", f"{ours}.a_proj.weight"),
            read=lambda tensors: [tensors[0][::2].clone(), tensors[0][1::2].clone()],
            write=lambda tensors: [torch.stack(list(tensors), dim=1).flatten(0, 1)],
        ),
        _convolved(shape, public, ours),
        *renamed(public, ours, same),
    ]


def _obstacle(mixer: Mixer) -> str | None:
    """See `StockBlock.obstacle`."""
    found = cast("GatedDeltaNet", mixer)
    if found.options.conv_bias and found.conv1d is not None:
        return "student.mixer.conv_bias=true: its convolution has no bias; false would do"
    if found.vkq_proj.bias is not None or found.o_proj.bias is not None:
        return "the teacher's attention_bias=true: its linear attention has no biases; a teacher without would do"
    return None


def _inputs(shape: MixerShape, public: str, ours: str) -> TensorRule:
    """Head by head the rows of query, key, value and gate."""

    def write(tensors: Tensors) -> Tensors:
        gate, vkq = tensors
        v, k, q = split_vkq(vkq, shape)
        parts = [q, repeated(k, shape), repeated(v, shape), gate]
        return [torch.stack([_by_head(part, shape) for part in parts], dim=1).flatten(0, 2)]

    def read(tensors: Tensors) -> Tensors:
        by_head = tensors[0].reshape(shape.num_heads, 4, shape.head_dim, -1)
        q, k, v, gate = (part.flatten(0, 1) for part in by_head.unbind(1))
        return [gate, torch.cat([shared(v, shape), shared(k, shape), q])]

    names = (f"{ours}.g_proj.weight", f"{ours}.vkq_proj.weight")
    return derived((f"{public}.in_proj_qkvz.weight",), names, read=read, write=write)


def _convolved(shape: MixerShape, public: str, ours: str) -> TensorRule:
    """Taps of the channels of queries, keys and values."""

    def write(tensors: Tensors) -> Tensors:
        v, k, q = split_vkq(tensors[0], shape)
        return [torch.cat([q, repeated(k, shape), repeated(v, shape)])]

    def read(tensors: Tensors) -> Tensors:
        q, k, v = tensors[0].chunk(3)
        return [torch.cat([shared(v, shape), shared(k, shape), q])]

    return derived((f"{public}.conv1d.weight",), (f"{ours}.conv1d.weight",), read=read, write=write)


def _by_head(rows: Tensor, shape: MixerShape) -> Tensor:
    return rows.reshape(shape.num_heads, shape.head_dim, *rows.shape[1:])


GATED_DELTANET_BLOCK = StockBlock(kind=BlockKind.gated_delta_net, rules=_rules, obstacle=_obstacle)
