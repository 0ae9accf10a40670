"""Grouped-query softmax attention, fused: a whole sequence is attended to without a T x T matrix."""

# Letters: B batch, T tokens, L capacity of the cache, S tokens in it, D model width, H heads, G key/value heads,
# P head_dim, R rows of the packed projection.

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention

from lab.core.errors import ConfigError
from lab.core.mixers.base import AttentionTraits, Mixer, MixerShape, MixerState, refuse_overflow
from lab.core.mixers.rotary import Angles, Rotary, rotate


class Projections(NamedTuple):
    """Queries, keys and values: rows of weights or biases, or heads of tokens."""

    q: Float[Tensor, "..."]
    k: Float[Tensor, "..."]
    v: Float[Tensor, "..."]


@dataclass(kw_only=True)
class KvState(MixerState):
    """The rotated keys and the values of the tokens so far, in the dtype of the weights."""

    keys: Float[Tensor, "B G L P"]
    values: Float[Tensor, "B G L P"]

    def tensors(self) -> tuple[Tensor, ...]:
        """Keys and values."""
        return self.keys, self.values


class SoftmaxAttention(Mixer):
    """softmax(q k' / sqrt(P)) v over the tokens up to each query's own.

    The projection is packed as in InternLM2: rows are grouped by key head as [q_1 .. q_{H/G}, k, v].
    """

    kind: ClassVar[str] = "softmax"
    is_attention: ClassVar[bool] = True

    def __init__(self, shape: MixerShape, *, rotary: Rotary | None = None, qkv_bias: bool = False) -> None:
        """An attention of this shape.

        Args:
            shape: sizes.
            rotary: position embedding of queries and keys; None: no positions.
            qkv_bias: whether the packed projection has a bias.

        Raises:
            ConfigError: if `rotary` is for heads of another size.
        """
        super().__init__(shape)
        if rotary is not None and rotary.head_dim != shape.head_dim:
            raise ConfigError(f"rotary.head_dim={rotary.head_dim} must be the attention's head_dim={shape.head_dim}")
        self.rotary = rotary
        num_rows = (shape.num_heads + 2 * shape.num_kv_heads) * shape.head_dim
        self.wqkv = nn.Linear(shape.hidden_size, num_rows, bias=qkv_bias)
        self.wo = nn.Linear(shape.num_heads * shape.head_dim, shape.hidden_size, bias=False)

    def heads(self, u: Float[Tensor, "B T D"]) -> Float[Tensor, "B H T P"]:
        """The attention's weighted means of values."""
        num_tokens = u.shape[1]
        q, k, v = self._project(u, self._angles(0, num_tokens, length=num_tokens, like=u))
        return scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)

    def output(self, heads: Float[Tensor, "B H T P"]) -> Float[Tensor, "B T D"]:
        """The projection W_o of the concatenated heads."""
        return self.wo(heads.transpose(1, 2).flatten(2))

    def allocate_state(self, batch_size: int, *, max_length: int) -> KvState:
        """An empty cache of keys and values: 2 G P numbers a token."""
        size = (batch_size, self.shape.num_kv_heads, max_length, self.shape.head_dim)
        return KvState(keys=self.wo.weight.new_zeros(size), values=self.wo.weight.new_zeros(size))

    def prefill(self, u: Float[Tensor, "B T D"], state: MixerState) -> Float[Tensor, "B T D"]:
        """Attention of the next T tokens to those in the cache and to one another.

        Raises:
            InputError: if the cache has no room for them.
        """
        assert isinstance(state, KvState), "allocate_state of this mixer makes the state"
        capacity = state.keys.shape[2]
        start, stop = state.length, state.length + u.shape[1]
        refuse_overflow(state, u.shape[1], capacity)
        q, k, v = self._project(u, self._angles(start, stop, length=capacity, like=u))
        state.keys[:, :, start:stop] = k
        state.values[:, :, start:stop] = v
        state.length = stop
        if start == 0:
            heads = scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        else:
            heads = _attend(q, state.keys[:, :, :stop], state.values[:, :, :stop])
        return self.output(heads)

    def step(self, u: Float[Tensor, "B 1 D"], state: MixerState) -> Float[Tensor, "B 1 D"]:
        """Attention of one token to those in the cache and itself."""
        return self.prefill(u, state)

    @property
    def traits(self) -> AttentionTraits:
        """Biases and position embedding."""
        return AttentionTraits(qkv_bias=self.wqkv.bias is not None, rotary=self.rotary)

    @property
    def longest(self) -> int | None:
        """Tokens that the position embedding was trained for; None for a dynamic one, or without one."""
        return None if self.rotary is None else self.rotary.config.longest

    def _angles(self, start: int, stop: int, *, length: int, like: Tensor) -> Angles | None:
        return None if self.rotary is None else self.rotary.angles(start, stop, length=length, like=like)

    def _project(self, u: Float[Tensor, "B T D"], angles: Angles | None) -> Projections:
        """Heads of the tokens, (B, H, T, P) for queries and (B, G, T, P) for keys and values."""
        shape = self.shape
        by_group = self.wqkv(u).view(*u.shape[:2], shape.num_kv_heads, shape.heads_per_group + 2, shape.head_dim)
        rotated = by_group[..., :-1, :]
        if angles is not None:
            rotated = rotate(rotated, angles)
        q, k = rotated[..., :-1, :].flatten(2, 3), rotated[..., -1, :]
        return Projections(q.transpose(1, 2), k.transpose(1, 2), by_group[..., -1, :].transpose(1, 2))


def _attend(
    q: Float[Tensor, "B H T P"], keys: Float[Tensor, "B G S P"], values: Float[Tensor, "B G S P"]
) -> Float[Tensor, "B H T P"]:
    """Attention of the last T of S tokens."""
    if q.shape[2] == 1:
        # one token sees every key: the queries of a group stand in as tokens, which read its keys once for all
        by_group = q.reshape(q.shape[0], keys.shape[1], -1, q.shape[3])
        return scaled_dot_product_attention(by_group, keys, values).reshape(q.shape)
    return scaled_dot_product_attention(
        q, keys, values, attn_mask=causal_lower_right(q.shape[2], keys.shape[2]), enable_gqa=True
    )


def unpack_qkv(packed: Float[Tensor, "R ..."], shape: MixerShape) -> Projections:
    """The rows of queries (H P), keys (G P) and values (G P) of a packed weight or bias, as copies."""
    by_group = packed.reshape(shape.num_kv_heads, shape.heads_per_group + 2, shape.head_dim, *packed.shape[1:])
    # cloned: with one key head the slices would share memory with the packed tensor
    q, k, v = by_group[:, :-2].flatten(0, 2), by_group[:, -2].flatten(0, 1), by_group[:, -1].flatten(0, 1)
    return Projections(q.clone(), k.clone(), v.clone())


def pack_qkv(q: Float[Tensor, "..."], k: Float[Tensor, "..."], v: Float[Tensor, "..."], shape: MixerShape) -> Tensor:
    """The inverse of `unpack_qkv`."""
    by_group = [part.reshape(shape.num_kv_heads, -1, shape.head_dim, *part.shape[1:]) for part in (q, k, v)]
    return torch.cat(by_group, dim=1).flatten(0, 2)
