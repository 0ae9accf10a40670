"""Layers of stock models of transformers that compute what a mixer does: which one, and where its tensors are there.

A stock layer has no key heads that queries share, so rows of keys and values are repeated for every query that reads
them. The convolution and SiLU act on each channel by itself and commute with that.
"""

# Letters: H heads, G key/value heads, P head_dim, R states of a head.

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor

from lab.core.mixers.base import Mixer, MixerShape
from lab.core.mixers.tensor_rules import TensorRule


class BlockKind(Enum):
    """The layers of transformers that are homes of mixers."""

    mamba2 = "mamba2"
    """Mamba-2 with a norm for each head, before or after its gate."""
    gated_delta_net = "gated_delta_net"
    """The gated delta rule with a norm for each head before its gate, and no biases."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Biases:
    """Which projections of a stock layer have a bias; where the mixer has none it is zero.

    Attributes:
        inputs: the projection of what the layer reads.
        outputs: the projection of its heads' outputs.
    """

    inputs: bool
    outputs: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class StockBlock:
    """The stock layer of a mixer.

    Attributes:
        kind: which layer.
        rules: (mixer, public prefix, our prefix, biases of the stock layer) to the rules of its tensors.
        obstacle: the option of a mixer that the layer has no place for, with its value and what would do; None if
            there is none. Options that all mixers have are looked at by the architectures.
    """

    kind: BlockKind
    rules: Callable[[Mixer, str, str, Biases], list[TensorRule]]
    obstacle: Callable[[Mixer], str | None]


def repeated(part: Tensor, shape: MixerShape, states: int = 1) -> Tensor:
    """Rows of key heads (G P, ...) repeated for the heads, and their R states, that share them (H R P, ...)."""
    by_head = part.reshape(shape.num_kv_heads, shape.head_dim, *part.shape[1:])
    return by_head.repeat_interleave(states * shape.heads_per_group, dim=0).flatten(0, 1)


def shared(part: Tensor, shape: MixerShape, states: int = 1) -> Tensor:
    """The rows of the first head of each group: the inverse of `repeated`."""
    by_head = part.reshape(states * shape.num_heads, shape.head_dim, *part.shape[1:])
    return by_head[:: states * shape.heads_per_group].flatten(0, 1)


def split_vkq(packed: Tensor, shape: MixerShape) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of values, keys and queries of a mixer's packed weight or bias."""
    kv_width = shape.num_kv_heads * shape.head_dim
    v, k, q = torch.split(packed, [kv_width, kv_width, shape.num_heads * shape.head_dim])
    return v, k, q
