"""Attention against its definition, row by row, and the cache that decodes it."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from lab.core.errors import ConfigError, InputError
from lab.core.mixers.base import MixerShape
from lab.core.mixers.norm import RmsNorm
from lab.core.mixers.rotary import Rotary, RotaryConfig, RotaryKind
from lab.core.mixers.softmax import SoftmaxAttention, pack_qkv, unpack_qkv
from lab.core.models.decoder import draw_weights

SHAPE = MixerShape(hidden_size=24, num_heads=6, num_kv_heads=2, head_dim=8)
LENGTH = 17
ROTARY = {
    "none": None,
    "plain": RotaryConfig(theta=100.0, max_length=32),
    "linear": RotaryConfig(theta=100.0, max_length=8, kind=RotaryKind.linear, factor=4.0),
    "dynamic, short": RotaryConfig(theta=100.0, max_length=32, kind=RotaryKind.dynamic, factor=2.0),
    "dynamic, long": RotaryConfig(theta=100.0, max_length=8, kind=RotaryKind.dynamic, factor=2.0),
}


VARIANTS: dict[str, dict[str, Any]] = {
    "normed": {"qk_norm_eps": 1e-2},
    "window": {"window": 5},
    "window of one": {"window": 1},
    "window of all": {"window": 40},
    "output bias": {"output_bias": True},
    "all": {"qk_norm_eps": 1e-6, "window": 7, "output_bias": True},
}


def attention(rotary: RotaryConfig | None, *, qkv_bias: bool = True, **variant: Any) -> SoftmaxAttention:
    made = None if rotary is None else Rotary(rotary, head_dim=SHAPE.head_dim)
    mixer = SoftmaxAttention(SHAPE, rotary=made, qkv_bias=qkv_bias, **variant).double()
    generator = torch.Generator().manual_seed(0)
    draw_weights(mixer, generator=generator, std=0.4)
    for name, parameter in mixer.named_parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, mean=float("norm" in name), generator=generator)
    return mixer


def drawn(length: int = LENGTH) -> Tensor:
    return torch.randn(2, length, SHAPE.hidden_size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def turned(x: Tensor, position: int, config: RotaryConfig | None, length: int) -> Tensor:
    """One head's channels as complex numbers, turned by the definition of each kind."""
    if config is None:
        return x
    half = SHAPE.head_dim // 2
    theta, at = config.theta, float(position)
    if config.kind is RotaryKind.linear:
        at /= config.factor
    if config.kind is RotaryKind.dynamic and length > config.max_length:
        stretch = config.factor * length / config.max_length - (config.factor - 1)
        theta *= stretch ** (SHAPE.head_dim / (SHAPE.head_dim - 2))
    angles = torch.tensor([at * theta ** (-i / half) for i in range(half)], dtype=torch.float64)
    product = torch.complex(x[:half], x[half:]) * torch.polar(torch.ones_like(angles), angles)
    return torch.cat([product.real, product.imag])


def by_definition(mixer: SoftmaxAttention, u: Tensor, config: RotaryConfig | None) -> Tensor:
    """Heads of a batch, one query at a time; rows of the packed projection are read off by hand."""
    per_group = SHAPE.num_heads // SHAPE.num_kv_heads
    head_outputs = u.new_zeros(u.shape[0], SHAPE.num_heads, u.shape[1], SHAPE.head_dim)
    for b, row in enumerate(u):
        rows = (row @ mixer.wqkv.weight.T + mixer.wqkv.bias).reshape(len(row), -1, SHAPE.head_dim)
        for h in range(SHAPE.num_heads):
            first = (h // per_group) * (per_group + 2)
            key_row, value_row = first + per_group, first + per_group + 1
            keys = [turned(normed(rows[s, key_row], mixer.k_norm), s, config, len(row)) for s in range(len(row))]
            for t in range(len(row)):
                q = turned(normed(rows[t, first + h % per_group], mixer.q_norm), t, config, len(row))
                oldest = 0 if mixer.window is None else max(0, t - mixer.window + 1)
                scores = torch.stack([q @ keys[s] / math.sqrt(SHAPE.head_dim) for s in range(oldest, t + 1)])
                head_outputs[b, h, t] = torch.softmax(scores, dim=0) @ rows[oldest : t + 1, value_row]
    return head_outputs


def normed(x: Tensor, norm: RmsNorm | None) -> Tensor:
    return x if norm is None else norm.weight * x / torch.sqrt((x * x).mean() + norm.eps)


@pytest.mark.parametrize("config", ROTARY.values(), ids=ROTARY)
def test_heads_are_those_of_the_definition(config: RotaryConfig | None) -> None:
    mixer, u = attention(config), drawn()
    with torch.no_grad():
        torch.testing.assert_close(mixer.head_outputs(u), by_definition(mixer, u, config), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_heads_of_every_variant_are_those_of_the_definition(variant: dict[str, Any]) -> None:
    mixer, u = attention(ROTARY["plain"], **variant), drawn()
    with torch.no_grad():
        expected = by_definition(mixer, u, ROTARY["plain"])
        torch.testing.assert_close(mixer.head_outputs(u), expected, rtol=1e-12, atol=1e-12)
        output = expected.transpose(1, 2).flatten(2) @ mixer.wo.weight.T
        output += 0 if mixer.wo.bias is None else mixer.wo.bias
        torch.testing.assert_close(mixer(u), output, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("window", [3, 130])
def test_a_window_over_many_blocks_is_a_masked_softmax(window: int) -> None:
    mixer, u = attention(None, window=window), drawn(300)
    with torch.no_grad():
        head_outputs = mixer.head_outputs(u)
        mixer.window = None
        whole = mixer.head_outputs(u[:, :window])
        rows = (u @ mixer.wqkv.weight.T + mixer.wqkv.bias).reshape(2, 300, 2, 5, 8)
        scores = torch.einsum("btgrp,bsgp->bgrts", rows[..., :3, :], rows[..., 3, :]) / math.sqrt(8)
        distance = torch.arange(300)[:, None] - torch.arange(300)[None, :]
        scores = scores.masked_fill((distance < 0) | (distance >= window), float("-inf"))
        expected = torch.einsum("bgrts,bsgp->bgrtp", scores.softmax(-1), rows[..., 4, :]).flatten(1, 2)
    torch.testing.assert_close(head_outputs, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(head_outputs[:, :, :window], whole, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("config", "variant"),
    [(config, {}) for config in ROTARY.values()]
    + [(ROTARY["dynamic, long"], variant) for variant in VARIANTS.values()],
    ids=[*ROTARY, *VARIANTS],
)
@pytest.mark.parametrize("pieces", [[LENGTH], [1], [5, 7], [1, 1, 14], [3, 1, 1, 9]], ids=str)
def test_pieces_and_steps_equal_the_whole(
    config: RotaryConfig | None, variant: dict[str, Any], pieces: list[int]
) -> None:
    mixer, u = attention(config, **variant), drawn()
    state = mixer.allocate_state(2, max_length=LENGTH)
    outputs = [mixer.prefill(u[:, state.length : state.length + length], state) for length in pieces]
    outputs += [mixer.step(u[:, t : t + 1], state) for t in range(state.length, LENGTH)]
    torch.testing.assert_close(torch.cat(outputs, dim=1), mixer(u), rtol=1e-12, atol=1e-12)


def test_a_decode_with_room_for_more_uses_the_angles_of_its_full_length() -> None:
    config = ROTARY["dynamic, long"]
    mixer, u = attention(config), drawn()
    state = mixer.allocate_state(2, max_length=LENGTH)
    first = mixer.prefill(u[:, :5], state)
    torch.testing.assert_close(first, mixer(u)[:, :5], rtol=1e-12, atol=1e-12)
    assert (first - mixer(u[:, :5])).abs().max() > 1e-3


def test_a_full_cache_refuses_more() -> None:
    mixer, u = attention(None), drawn()
    state = mixer.allocate_state(2, max_length=6)
    mixer.prefill(u[:, :4], state)
    with pytest.raises(InputError, match=r"holds 4 of max_length=6 tokens and cannot take 3 more; .*max_length=7"):
        mixer.prefill(u[:, 4:7], state)
    assert state.length == 4


def test_a_token_of_the_released_size_takes_4096_bytes_a_layer() -> None:
    shape = MixerShape(hidden_size=2048, num_heads=16, num_kv_heads=8, head_dim=128)
    mixer = SoftmaxAttention(shape).to("meta", torch.bfloat16)
    assert mixer.allocate_state(1, max_length=1000).num_bytes == 4096 * 1000


def test_the_cache_of_a_window_does_not_grow_beyond_it() -> None:
    mixer = attention(None, window=6)
    assert mixer.allocate_state(1, max_length=1000).num_bytes == mixer.allocate_state(1, max_length=6).num_bytes
    state = mixer.allocate_state(2, max_length=8)
    mixer.prefill(drawn(8), state)
    with pytest.raises(InputError, match="holds 8 of max_length=8 tokens"):
        mixer.step(drawn(1), state)


def test_a_window_without_a_token_is_refused() -> None:
    with pytest.raises(ConfigError, match="window=0 must be 1 or more"):
        SoftmaxAttention(SHAPE, window=0)


@pytest.mark.parametrize("num_kv_heads", [1, 2, 6])
def test_packing_is_the_inverse_of_unpacking(num_kv_heads: int) -> None:
    shape = MixerShape(hidden_size=24, num_heads=6, num_kv_heads=num_kv_heads, head_dim=8)
    num_rows = (6 + 2 * num_kv_heads) * 8
    packed = torch.arange(num_rows * 24.0).reshape(num_rows, 24)
    q, k, v = unpack_qkv(packed, shape)
    assert (q.shape, k.shape, v.shape) == ((48, 24), (8 * num_kv_heads, 24), (8 * num_kv_heads, 24))
    torch.testing.assert_close(pack_qkv(q, k, v, shape), packed, rtol=0, atol=0)
    bias = packed[:, 0].clone()
    torch.testing.assert_close(pack_qkv(*unpack_qkv(bias, shape), shape), bias, rtol=0, atol=0)


def test_rows_are_grouped_by_key_head() -> None:
    shape = MixerShape(hidden_size=2048, num_heads=16, num_kv_heads=8, head_dim=128)
    rows = torch.arange(4096, dtype=torch.float32)
    grouped = rows.reshape(8, 4, 128)
    q, k, v = unpack_qkv(rows, shape)
    assert q.reshape(8, 2, 128).equal(grouped[:, :2])
    assert k.reshape(8, 128).equal(grouped[:, 2])
    assert v.reshape(8, 128).equal(grouped[:, 3])


def test_unpacked_weights_share_no_memory_with_the_packed_ones() -> None:
    shape = MixerShape(hidden_size=4, num_heads=2, num_kv_heads=1, head_dim=4)
    packed = torch.zeros(16, 4)
    for part in unpack_qkv(packed, shape):
        part += 1
    assert packed.abs().max() == 0


def test_angles_for_heads_of_another_size_are_refused() -> None:
    rotary = Rotary(RotaryConfig(theta=100.0, max_length=8), head_dim=4)
    with pytest.raises(ConfigError, match=r"rotary\.head_dim=4 must be the attention's head_dim=8"):
        SoftmaxAttention(SHAPE, rotary=rotary)
