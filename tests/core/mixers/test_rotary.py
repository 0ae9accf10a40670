"""Rotary angles: relative positions, long sequences, and one table for many layers."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lab.core.errors import ConfigError, InputError
from lab.core.mixers.rotary import Rotary, RotaryConfig, RotaryKind, rotate

LIKE = torch.zeros(1, dtype=torch.float64)
PLAIN = RotaryConfig(theta=10000.0, max_length=4096)


@given(q_at=st.integers(0, 2000), k_at=st.integers(0, 2000), shift=st.integers(0, 2000))
def test_scores_depend_on_the_distance_alone(q_at: int, k_at: int, shift: int) -> None:
    rotary = Rotary(PLAIN, head_dim=8)
    q, k = torch.randn(2, 1, 1, 1, 1, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def score(by: int) -> torch.Tensor:
        turned = [
            rotate(x, rotary.angles(at, at + 1, length=4096, like=LIKE)) for x, at in ((q, q_at + by), (k, k_at + by))
        ]
        return (turned[0] * turned[1]).sum()

    torch.testing.assert_close(score(shift), score(0), rtol=1e-9, atol=1e-9)


def test_a_turn_keeps_the_length() -> None:
    x = torch.randn(2, 50, 3, 2, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    angles = Rotary(PLAIN, head_dim=16).angles(0, 50, length=50, like=x)
    torch.testing.assert_close(rotate(x, angles).norm(dim=-1), x.norm(dim=-1))


def test_bfloat16_is_turned_in_float32() -> None:
    x = torch.randn(1, 4000, 1, 1, 128, generator=torch.Generator().manual_seed(0)).bfloat16()
    rotary = Rotary(PLAIN, head_dim=128)
    exact = rotate(x.double(), rotary.angles(0, 4000, length=4000, like=LIKE))
    turned = rotate(x, rotary.angles(0, 4000, length=4000, like=x))
    assert turned.dtype == torch.bfloat16
    # half a unit in the last of 8 bits
    torch.testing.assert_close(turned.double(), exact, rtol=2**-8, atol=1e-6)


def test_one_table_serves_every_layer() -> None:
    rotary = Rotary(PLAIN, head_dim=8)
    first = rotary.angles(0, 100, length=100, like=LIKE)
    assert rotary.angles(10, 20, length=100, like=LIKE).cos.data_ptr() == first.cos[10:].data_ptr()


def test_dynamic_angles_of_a_short_sequence_are_the_plain_ones() -> None:
    dynamic = RotaryConfig(theta=10000.0, max_length=64, kind=RotaryKind.dynamic, factor=2.0)
    of_64 = Rotary(dynamic, head_dim=8).angles(0, 64, length=64, like=LIKE)
    assert of_64.cos.equal(Rotary(PLAIN, head_dim=8).angles(0, 64, length=64, like=LIKE).cos)
    assert not of_64.cos.equal(Rotary(dynamic, head_dim=8).angles(0, 64, length=65, like=LIKE).cos)


def test_a_table_that_was_made_in_inference_mode_serves_training() -> None:
    rotary = Rotary(PLAIN, head_dim=8)
    with torch.inference_mode():
        rotary.angles(0, 5, length=5, like=LIKE)
    x = torch.ones(1, 5, 1, 1, 8, dtype=torch.float64, requires_grad=True)
    rotate(x, rotary.angles(0, 5, length=5, like=LIKE)).sum().backward()
    assert x.grad is not None


@pytest.mark.parametrize(
    ("config", "longest"),
    [
        (RotaryConfig(theta=1e4, max_length=8), 8),
        (RotaryConfig(theta=1e4, max_length=8, kind=RotaryKind.linear, factor=4.0), 32),
    ],
)
def test_a_sequence_longer_than_those_of_the_training_is_refused(config: RotaryConfig, longest: int) -> None:
    rotary = Rotary(config, head_dim=8)
    rotary.angles(0, longest, length=longest, like=LIKE)
    with pytest.raises(InputError, match=f"has {longest + 1} tokens but the model was trained on at most {longest}; "):
        rotary.angles(longest, longest + 1, length=longest + 1, like=LIKE)


def test_dynamic_scaling_takes_any_length() -> None:
    config = RotaryConfig(theta=1e4, max_length=8, kind=RotaryKind.dynamic, factor=2.0)
    assert Rotary(config, head_dim=8).angles(0, 1000, length=1000, like=LIKE).cos.shape == (1000, 4)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"theta": 0.0}, "theta=0.0 must be above 0"),
        ({"max_length": 0}, "max_length=0 must be 1 or more"),
        (
            {"factor": 2.0},
            r"rotary\.factor=2\.0 with kind=plain: it is for kind=linear, dynamic, llama3, yarn, longrope",
        ),
        ({"kind": RotaryKind.linear, "factor": 0.5}, r"factor=0\.5 must be 1 or more"),
        ({"kind": RotaryKind.linear, "beta_fast": 8.0}, "rotary.beta_fast=8.0 with kind=linear: it is for kind=yarn;"),
        ({"kind": RotaryKind.yarn, "factor": 2.0}, "rotary.original_length=None must be 2 or more with kind=yarn"),
        (
            {"kind": RotaryKind.llama3, "original_length": 4, "low_freq_factor": 4.0},
            "rotary.high_freq_factor=4 must be above low_freq_factor=4",
        ),
        ({"kind": RotaryKind.longrope, "original_length": 4}, "longrope needs short_factors and long_factors"),
        ({"fraction": 0.0}, "fraction=0.0 must be above 0 and at most 1"),
    ],
)
def test_settings_that_mean_nothing_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RotaryConfig(**({"theta": 1e4, "max_length": 8} | values))  # type: ignore[arg-type]


@pytest.mark.parametrize("head_dim", [2, 7])
def test_heads_that_cannot_be_turned_are_refused(head_dim: int) -> None:
    with pytest.raises(ConfigError, match=f"head_dim={head_dim} must be even and 4 or more"):
        Rotary(PLAIN, head_dim=head_dim)


# rope_parameters of transformers, the same in our words, and the lengths at which the two are compared
SCALED: dict[str, tuple[dict[str, Any], dict[str, Any], list[int]]] = {
    "linear": ({"factor": 4.0}, {"factor": 4.0}, [100]),
    "dynamic": ({"factor": 2.0}, {"factor": 2.0}, [100, 256, 300, 1000]),
    "llama3": (
        {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64},
        {"factor": 8.0, "original_length": 64},
        [100, 256],
    ),
    "yarn": (
        {"factor": 4.0, "original_max_position_embeddings": 64},
        {"factor": 4.0, "original_length": 64},
        [32, 256],
    ),
    "yarn, every key": (
        {
            "factor": 4.0,
            "original_max_position_embeddings": 64,
            "beta_fast": 8,
            "beta_slow": 2,
            "truncate": False,
            "attention_factor": 0.7,
        },
        {
            "factor": 4.0,
            "original_length": 64,
            "beta_fast": 8.0,
            "beta_slow": 2.0,
            "truncate": False,
            "attention_factor": 0.7,
        },
        [256],
    ),
    "longrope": (
        {
            "factor": 4.0,
            "original_max_position_embeddings": 64,
            "short_factor": [1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7],
            "long_factor": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0],
        },
        {
            "factor": 4.0,
            "original_length": 64,
            "short_factors": [1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7],
            "long_factors": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0],
        },
        [64, 65, 256],
    ),
}


@pytest.mark.parametrize(
    ("name", "fraction"), [*((name, 1.0) for name in SCALED), *((name, 0.5) for name in SCALED if name != "longrope")]
)
def test_angles_are_those_of_transformers(name: str, fraction: float) -> None:
    rope = pytest.importorskip("transformers.modeling_rope_utils", reason="transformers is not installed")
    transformers = pytest.importorskip("transformers")
    theirs, ours, lengths = SCALED[name]
    kind = name.split(",")[0]
    config = transformers.LlamaConfig(
        hidden_size=64,
        num_attention_heads=4,
        max_position_embeddings=256,
        rope_parameters=theirs | {"rope_type": kind, "rope_theta": 500.0, "partial_rotary_factor": fraction},
    )
    rotary = Rotary(
        RotaryConfig(theta=500.0, max_length=256, kind=RotaryKind(kind), fraction=fraction, **ours), head_dim=16
    )
    for length in lengths:
        frequencies, scale = rope.ROPE_INIT_FUNCTIONS[kind](config, torch.device("cpu"), seq_len=length)
        turns = torch.outer(torch.arange(length, dtype=torch.float64), frequencies.double())
        angles = rotary.angles(0, length, length=length, like=LIKE)
        # their frequencies have 24 bits
        torch.testing.assert_close(angles.cos, scale * turns.cos(), rtol=0, atol=1e-6 * length)
        torch.testing.assert_close(angles.sin, scale * turns.sin(), rtol=0, atol=1e-6 * length)


def test_llama3_keeps_high_frequencies_and_divides_low_ones() -> None:
    config = RotaryConfig(theta=10000.0, max_length=8192, kind=RotaryKind.llama3, factor=8.0, original_length=1024)
    scaled = Rotary(config, head_dim=64).angles(1, 2, length=2, like=LIKE)
    plain = Rotary(PLAIN, head_dim=64).angles(1, 2, length=2, like=LIKE)
    ratio = torch.atan2(scaled.sin, scaled.cos)[0] / torch.atan2(plain.sin, plain.cos)[0]
    num_turns = 1024 * 10000.0 ** (-torch.arange(32, dtype=torch.float64) / 32) / (2 * math.pi)
    torch.testing.assert_close(ratio[num_turns > 4], torch.ones_like(ratio[num_turns > 4]))
    torch.testing.assert_close(ratio[num_turns < 1], torch.full_like(ratio[num_turns < 1], 1 / 8))
    between = ratio[(num_turns > 1) & (num_turns < 4)]
    assert len(between) > 3
    assert ((between > 1 / 8) & (between < 1)).all()


def test_channels_beyond_the_fraction_carry_no_position() -> None:
    x = torch.randn(1, 9, 2, 3, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    half = RotaryConfig(theta=10000.0, max_length=4096, fraction=0.5)
    turned = rotate(x, Rotary(half, head_dim=16).angles(0, 9, length=9, like=x))
    assert turned[..., 8:].equal(x[..., 8:])
    alone = rotate(x[..., :8], Rotary(PLAIN, head_dim=8).angles(0, 9, length=9, like=x))
    assert turned[..., :8].equal(alone)


@pytest.mark.parametrize(
    ("change", "longest"),
    [
        ({"kind": RotaryKind.llama3, "original_length": 64}, 256),
        ({"kind": RotaryKind.yarn, "original_length": 256}, 1024),
        ({"kind": RotaryKind.yarn, "original_length": 64}, 256),
    ],
)
def test_the_longest_sequence_of_an_extended_context(change: dict[str, Any], longest: int) -> None:
    assert RotaryConfig(theta=1e4, max_length=256, factor=4.0, **change).longest == longest


def test_longrope_has_a_divisor_for_each_pair_of_channels() -> None:
    config = RotaryConfig(
        theta=1e4,
        max_length=64,
        kind=RotaryKind.longrope,
        original_length=16,
        short_factors=[1.0] * 4,
        long_factors=[1.0] * 3,
    )
    with pytest.raises(ConfigError, match=r"rotary\.long_factors must be 4 positive numbers"):
        Rotary(config, head_dim=8)
