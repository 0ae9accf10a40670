"""Rotary angles: relative positions, long sequences, and one table for many layers."""

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
        ({"theta": 0.0, "max_length": 8}, "rotary.theta=0 must be positive"),
        ({"theta": 1e4, "max_length": 0}, "rotary.max_length=0 must be 1 or more"),
        ({"theta": 1e4, "max_length": 8, "factor": 2.0}, "rotary.factor=2 with kind=plain"),
        ({"theta": 1e4, "max_length": 8, "kind": RotaryKind.linear, "factor": 0.5}, "rotary.factor=0.5 with kind=lin"),
    ],
)
def test_settings_that_mean_nothing_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RotaryConfig(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize("head_dim", [2, 7])
def test_heads_that_cannot_be_turned_are_refused(head_dim: int) -> None:
    with pytest.raises(ConfigError, match=f"head_dim={head_dim} must be even and 4 or more"):
        Rotary(PLAIN, head_dim=head_dim)
