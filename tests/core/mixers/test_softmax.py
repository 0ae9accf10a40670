"""Attention against its definition, row by row, and the cache that decodes it."""

import math

import pytest
import torch
from torch import Tensor

from lab.core.errors import ConfigError, InputError
from lab.core.mixers.base import MixerShape
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


def attention(rotary: RotaryConfig | None, *, qkv_bias: bool = True) -> SoftmaxAttention:
    made = None if rotary is None else Rotary(rotary, head_dim=SHAPE.head_dim)
    mixer = SoftmaxAttention(SHAPE, rotary=made, qkv_bias=qkv_bias).double()
    generator = torch.Generator().manual_seed(0)
    draw_weights(mixer, generator=generator, std=0.4)
    if qkv_bias:
        torch.nn.init.normal_(mixer.wqkv.bias, generator=generator)
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
    heads = u.new_zeros(u.shape[0], SHAPE.num_heads, u.shape[1], SHAPE.head_dim)
    for b, row in enumerate(u):
        rows = (row @ mixer.wqkv.weight.T + mixer.wqkv.bias).reshape(len(row), -1, SHAPE.head_dim)
        for h in range(SHAPE.num_heads):
            first = (h // per_group) * (per_group + 2)
            key_row, value_row = first + per_group, first + per_group + 1
            keys = [turned(rows[s, key_row], s, config, len(row)) for s in range(len(row))]
            for t in range(len(row)):
                q = turned(rows[t, first + h % per_group], t, config, len(row))
                scores = torch.stack([q @ keys[s] / math.sqrt(SHAPE.head_dim) for s in range(t + 1)])
                heads[b, h, t] = torch.softmax(scores, dim=0) @ rows[: t + 1, value_row]
    return heads


@pytest.mark.parametrize("config", ROTARY.values(), ids=ROTARY)
def test_heads_are_those_of_the_definition(config: RotaryConfig | None) -> None:
    mixer, u = attention(config), drawn()
    with torch.no_grad():
        torch.testing.assert_close(mixer.heads(u), by_definition(mixer, u, config), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("config", ROTARY.values(), ids=ROTARY)
@pytest.mark.parametrize("pieces", [[LENGTH], [1], [5, 7], [1, 1, 14]], ids=str)
def test_pieces_and_steps_equal_the_whole(config: RotaryConfig | None, pieces: list[int]) -> None:
    mixer, u = attention(config), drawn()
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
    rows = torch.arange(4096)
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
