"""Grouped-query softmax attention, fused: a whole sequence is attended to without a T x T matrix."""

# Letters: B batch, T tokens, L slots of the cache, S tokens in it, D model width, H heads, G key/value heads,
# P head_dim, N queries and key of a group (H / G + 1), R rows of the packed projection, W window.

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from lab.core.decoding.writer import Heads, Normed, Writer, refuse_changed
from lab.core.errors import ConfigError
from lab.core.mixers.base import AttentionTraits, Mixer, MixerShape, MixerState, refuse_overflow
from lab.core.mixers.norm import RmsNorm
from lab.core.mixers.rotary import Angles, Rotary, rotate
from lab.core.operators.packing import Packing
from lab.core.products.linear import Linear

# queries that are attended for at once under a window, if it is not larger
_MIN_BLOCK = 128


class Projections(NamedTuple):
    """Queries, keys and values: rows of weights or biases, or heads of tokens."""

    q: Float[Tensor, "..."]
    k: Float[Tensor, "..."]
    v: Float[Tensor, "..."]


@dataclass(kw_only=True)
class KvState(MixerState):
    """The rotated keys and the values of past tokens, in the dtype of the weights.

    Attributes:
        keys: of the tokens in order; with a window, token t is in slot t mod L and replaces one that left the window.
        values: as the keys.
        max_length: tokens that the state was allocated for.
    """

    keys: Float[Tensor, "B G L P"]
    values: Float[Tensor, "B G L P"]
    max_length: int

    def tensors(self) -> tuple[Tensor, ...]:
        """Keys and values."""
        return self.keys, self.values

    def clear(self) -> None:
        """Forget all tokens: what no token is in is not read."""
        self.length = 0


class SoftmaxAttention(Mixer):
    """softmax(q k' / sqrt(P)) v over the tokens up to each query, or over the last W of them.

    The projection is packed as in InternLM2: rows are grouped by key head as [q_1 .. q_{H/G}, k, v].
    """

    kind: ClassVar[str] = "softmax"
    is_attention: ClassVar[bool] = True

    def __init__(
        self,
        shape: MixerShape,
        *,
        rotary: Rotary | None = None,
        qkv_bias: bool = False,
        output_bias: bool = False,
        qk_norm_eps: float | None = None,
        window: int | None = None,
        norm_eps: float | None = None,
    ) -> None:
        """An attention of this shape.

        Args:
            shape: sizes.
            rotary: position embedding of queries and keys; None: no positions.
            qkv_bias: whether the packed projection has a bias.
            output_bias: whether the output projection has a bias.
            qk_norm_eps: eps of the RMSNorm of each query and key before the rotation (Qwen3); None: no norm.
            window: W, tokens that a query sees, its own among them; None: all.
            norm_eps: eps of the norm in front of the attention, for mixers that replace it.

        Raises:
            ConfigError: if `rotary` is for heads of another size, or the window is empty.
        """
        super().__init__(shape)
        if rotary is not None and rotary.head_dim != shape.head_dim:
            raise ConfigError(f"rotary.head_dim={rotary.head_dim} must be the attention's head_dim={shape.head_dim}")
        if window is not None and window < 1:
            raise ConfigError(f"window={window} must be 1 or more; null lets every token be seen")
        self.rotary = rotary
        self.window = window
        self.norm_eps = norm_eps
        self._narrowed: tuple[int, int] | None = None
        num_rows = (shape.num_heads + 2 * shape.num_kv_heads) * shape.head_dim
        self.wqkv = Linear(shape.hidden_size, num_rows, bias=qkv_bias)
        self.wo = Linear(shape.num_heads * shape.head_dim, shape.hidden_size, bias=output_bias)
        self.q_norm, self.k_norm = (
            None if qk_norm_eps is None else RmsNorm(shape.head_dim, eps=qk_norm_eps) for _ in range(2)
        )

    def head_outputs(self, u: Float[Tensor, "B T D"]) -> Float[Tensor, "B H T P"]:
        """The attention's weighted means of values."""
        num_tokens = u.shape[1]
        return self._attend_whole(self._project(u, self._angles(0, num_tokens, length=num_tokens, like=u)))

    def packed_head_outputs(self, u: Float[Tensor, "1 T D"], packing: Packing) -> Float[Tensor, "1 H T P"]:
        """See `Mixer.packed_head_outputs`; all tokens are projected at once."""
        angles = None if self.rotary is None else self.rotary.packed_angles(packing, like=u)
        projected = self._project(u, angles)
        sequences = [Projections(*(part[:, :, tokens] for part in projected)) for tokens in packing.slices()]
        return torch.cat([self._attend_whole(sequence) for sequence in sequences], dim=2)

    def output(self, head_outputs: Float[Tensor, "B H T P"]) -> Float[Tensor, "B T D"]:
        """The projection W_o of the concatenated head outputs."""
        return self.wo(head_outputs.transpose(1, 2).flatten(2))

    @property
    def bytes_per_token(self) -> int:
        """Bytes of one token's key and value in the cache."""
        return 2 * self.shape.num_kv_heads * self.shape.head_dim * self.wo.weight.itemsize

    def allocate_state(self, batch_size: int, *, max_length: int) -> KvState:
        """An empty cache of keys and values: 2 G P numbers a token, for W tokens at most."""
        assert self._narrowed is None, "a narrowed attention is not decoded"
        num_slots = max_length if self.window is None else min(max_length, self.window)
        size = (batch_size, self.shape.num_kv_heads, num_slots, self.shape.head_dim)
        keys, values = self.wo.weight.new_zeros(size), self.wo.weight.new_zeros(size)
        return KvState(keys=keys, values=values, max_length=max_length)

    def prefill(self, u: Float[Tensor, "B T D"], state: MixerState) -> Float[Tensor, "B T D"]:
        """Attention of the next T tokens to those in the cache and to one another.

        Raises:
            InputError: if the cache has no room for them.
        """
        assert isinstance(state, KvState), "allocate_state of this mixer makes the state"
        start, stop = state.length, state.length + u.shape[1]
        refuse_overflow(state, u.shape[1], state.max_length)
        q, k, v = self._project(u, self._angles(start, stop, length=state.max_length, like=u))
        num_slots = state.keys.shape[2]
        if u.shape[1] == 1 or stop <= num_slots:
            # slots are in the order of tokens, or one token takes the slot of the one that its window has left
            at = start % num_slots
            state.keys[:, :, at : at + u.shape[1]] = k
            state.values[:, :, at : at + u.shape[1]] = v
            num_seen = min(stop, num_slots)
            k, v = (k, v) if start == 0 else (state.keys[:, :, :num_seen], state.values[:, :, :num_seen])
            head_outputs = _attend(q, k, v, window=None)
        else:
            before = torch.arange(max(0, start - num_slots), start, device=u.device) % num_slots
            k, v = torch.cat([state.keys[:, :, before], k], dim=2), torch.cat([state.values[:, :, before], v], dim=2)
            head_outputs = _attend(q, k, v, window=self.window)
            after = torch.arange(stop - num_slots, stop, device=u.device) % num_slots
            state.keys[:, :, after], state.values[:, :, after] = k[:, :, -num_slots:], v[:, :, -num_slots:]
        state.length = stop
        return self.output(head_outputs)

    def step(self, u: Float[Tensor, "B 1 D"], state: MixerState) -> Float[Tensor, "B 1 D"]:
        """Attention of one token to those in the cache and itself."""
        return self.prefill(u, state)

    def write_step(self, writer: Writer, u: Normed, state: MixerState, x: Float[Tensor, "B D"]) -> None:
        """See `Mixer.write_step`."""
        refuse_changed(self, SoftmaxAttention, "forward", "step", "prefill", "output", "normed", "_angles", "_project")
        assert isinstance(state, KvState), "allocate_state of this mixer makes the state"
        turns = None if self.rotary is None else self.rotary.turns(state.max_length)
        most = state.max_length if turns is None else len(turns.cos)
        norms = None if self.q_norm is None or self.k_norm is None else (self.q_norm, self.k_norm)
        heads = Heads(self.shape.num_kv_heads, self.shape.heads_per_group, self.shape.head_dim)
        positions = writer.positions(writer.clock(state, most), turns, norms)
        qkv = writer.linear(u, self.wqkv, "projected")
        y = writer.attend(qkv, state.keys, state.values, positions, heads, "heads")
        writer.linear(y, self.wo, "", added_to=x)

    @property
    def traits(self) -> AttentionTraits:
        """Biases, norms, position embedding and window."""
        return AttentionTraits(
            qkv_bias=self.wqkv.bias is not None,
            output_bias=self.wo.bias is not None,
            qk_norm_eps=None if self.q_norm is None else self.q_norm.eps,
            rotary=self.rotary,
            window=self.window,
            norm_eps=self.norm_eps,
        )

    @property
    def longest(self) -> int | None:
        """Tokens that the position embedding was trained for; None for a dynamic one, or without one."""
        return None if self.rotary is None else self.rotary.config.longest

    def normed(self, queries_key: Float[Tensor, "B T G N P"]) -> Float[Tensor, "B T G N P"]:
        """Each group's queries and, last, its key before their rotation: normed head by head, or unchanged."""
        if self.q_norm is None or self.k_norm is None:
            return queries_key
        return torch.cat([self.q_norm(queries_key[..., :-1, :]), self.k_norm(queries_key[..., -1:, :])], dim=-2)

    def _angles(self, start: int, stop: int, *, length: int, like: Tensor) -> Angles | None:
        return None if self.rotary is None else self.rotary.angles(start, stop, length=length, like=like)

    def _attend_whole(self, projected: Projections) -> Float[Tensor, "B H T P"]:
        """Attention of all tokens of sequences to those up to each, as far as it may see."""
        if self._narrowed is None:
            return _attend(*projected, window=self.window)
        last, num_first = self._narrowed
        num_tokens = projected.q.shape[2]
        mask = visible(num_tokens, last=last, num_first=num_first)
        if self.window is not None:
            mask &= visible(num_tokens, last=self.window, num_first=0)
        return scaled_dot_product_attention(*projected, attn_mask=mask.to(projected.q.device), enable_gqa=True)

    def _project(self, u: Float[Tensor, "B T D"], angles: Angles | None) -> Projections:
        """Heads of the tokens, (B, H, T, P) for queries and (B, G, T, P) for keys and values."""
        shape = self.shape
        by_group = self.wqkv(u).view(*u.shape[:2], shape.num_kv_heads, shape.heads_per_group + 2, shape.head_dim)
        rotated = self.normed(by_group[..., :-1, :])
        if angles is not None:
            rotated = rotate(rotated, angles)
        q, k = rotated[..., :-1, :].flatten(2, 3), rotated[..., -1, :]
        return Projections(q.transpose(1, 2), k.transpose(1, 2), by_group[..., -1, :].transpose(1, 2))


def narrow_attention(mixer: Mixer, *, last: int, num_first: int) -> None:
    """Let the queries of an attention see the last and the first tokens only: whole sequences can then be computed.

    Args:
        mixer: softmax attention; a window that it has is kept.
        last: tokens that a query sees, its own among them.
        num_first: first tokens that it sees too, the attention sinks (Xiao et al., arXiv 2309.17453).
    """
    assert isinstance(mixer, SoftmaxAttention), "a teacher has no other"
    mixer._narrowed = last, num_first


@contextmanager
def narrowed_attention(mixer: Mixer, *, last: int, num_first: int) -> Iterator[None]:
    """A context in which an attention is as `narrow_attention` makes it."""
    assert isinstance(mixer, SoftmaxAttention), "a teacher has no other"
    before = mixer._narrowed
    narrow_attention(mixer, last=last, num_first=num_first)
    try:
        yield
    finally:
        mixer._narrowed = before


def _attend(
    q: Float[Tensor, "B H T P"], keys: Float[Tensor, "B G S P"], values: Float[Tensor, "B G S P"], *, window: int | None
) -> Float[Tensor, "B H T P"]:
    """Attention of the last T of S tokens, each to the last `window` tokens up to its own."""
    num_queries, num_keys = q.shape[2], keys.shape[2]
    if window is not None and window < num_keys:
        return _attend_in_blocks(q, keys, values, window=window)
    if num_queries == 1:
        # one token sees every key: the queries of a group stand in as tokens, which read its keys once for all
        by_group = q.reshape(q.shape[0], keys.shape[1], -1, q.shape[3])
        return scaled_dot_product_attention(by_group, keys, values).reshape(q.shape)
    if num_queries == num_keys:
        return scaled_dot_product_attention(q, keys, values, is_causal=True, enable_gqa=True)
    # loads torch's compiler, which takes longer than all else of a start
    from torch.nn.attention.bias import causal_lower_right  # noqa: PLC0415

    return scaled_dot_product_attention(
        q, keys, values, attn_mask=causal_lower_right(num_queries, num_keys), enable_gqa=True
    )


def _attend_in_blocks(
    q: Float[Tensor, "B H T P"], keys: Float[Tensor, "B G S P"], values: Float[Tensor, "B G S P"], *, window: int
) -> Float[Tensor, "B H T P"]:
    """`_attend` for a window shorter than S, a block of queries at a time: time and memory linear in T."""
    first, size = keys.shape[2] - q.shape[2], max(window, _MIN_BLOCK)
    blocks = []
    for begin in range(0, q.shape[2], size):
        stop = min(begin + size, q.shape[2])
        low, high = max(0, first + begin - window + 1), first + stop
        mask = visible(high - low, last=window, num_first=0)[-(stop - begin) :].to(q.device)
        block = keys[:, :, low:high], values[:, :, low:high]
        blocks.append(scaled_dot_product_attention(q[:, :, begin:stop], *block, attn_mask=mask, enable_gqa=True))
    return torch.cat(blocks, dim=2)


def visible(num_tokens: int, *, last: int, num_first: int) -> Bool[Tensor, "T T"]:
    """Whether query t (row) sees key s (column): the last tokens, its own among them, and the first ones."""
    t, s = torch.arange(num_tokens)[:, None], torch.arange(num_tokens)[None, :]
    return (s <= t) & ((t - s < last) | (s < num_first))


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
