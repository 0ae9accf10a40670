"""Laws of the SSD operator that hold for any input, for both tiers of the chunked form."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from lab.core.ssd import SsdOutput

Operator = Callable[..., SsdOutput]

NUM_HEADS = 4

# the fixture is the same function for every example
few = settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
lengths = st.integers(1, 90)
chunk_sizes = st.integers(1, 100)
groups = st.sampled_from([1, 2, 4])
seeds = st.integers(0, 2**32 - 1)


def draw(num_tokens: int, num_groups: int, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return {
        "x": normal(1, num_tokens, NUM_HEADS, 3),
        "dt": torch.exp(normal(1, num_tokens, NUM_HEADS)),
        "A": -torch.exp(normal(NUM_HEADS)),
        "B": normal(1, num_tokens, num_groups, 5),
        "C": normal(1, num_tokens, num_groups, 5),
        "D": normal(NUM_HEADS, 3),
        "initial_state": normal(1, NUM_HEADS, 3, 5),
    }


def assert_same(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12 * max(1.0, float(expected.abs().max())))


@few
@given(num_tokens=lengths, num_groups=groups, seed=seeds, factor=st.floats(-3, 3))
def test_it_is_linear_in_x_and_the_initial_state(
    operator: Operator, num_tokens: int, num_groups: int, seed: int, factor: float
) -> None:
    first, second = draw(num_tokens, num_groups, seed), draw(num_tokens, num_groups, seed + 1)
    linear = ("x", "initial_state")
    rest = {name: tensor for name, tensor in first.items() if name not in linear}
    mixed = operator(**rest, **{name: first[name] + factor * second[name] for name in linear})
    ours, theirs = (operator(**rest, **{name: tensors[name] for name in linear}) for tensors in (first, second))
    assert_same(mixed.y, ours.y + factor * theirs.y)
    assert_same(mixed.final_state, ours.final_state + factor * theirs.final_state)


@few
@given(num_tokens=lengths, num_groups=groups, seed=seeds, chunk_size=chunk_sizes, other=chunk_sizes)
def test_the_chunk_size_changes_nothing(
    operator: Operator, num_tokens: int, num_groups: int, seed: int, chunk_size: int, other: int
) -> None:
    tensors = draw(num_tokens, num_groups, seed)
    found, expected = (operator(**tensors, chunk_size=size) for size in (chunk_size, other))
    assert_same(found.y, expected.y)
    assert_same(found.final_state, expected.final_state)


@few
@given(num_tokens=lengths, num_groups=groups, seed=seeds, split=st.floats(0, 1))
def test_the_state_carries_from_one_call_to_the_next(
    operator: Operator, num_tokens: int, num_groups: int, seed: int, split: float
) -> None:
    tensors = draw(num_tokens, num_groups, seed)
    at = round(split * num_tokens)
    by_token = ("x", "dt", "B", "C")
    before = operator(**{name: t[:, :at] if name in by_token else t for name, t in tensors.items()})
    rest = {name: t[:, at:] if name in by_token else t for name, t in tensors.items()}
    after = operator(**{**rest, "initial_state": before.final_state})
    whole = operator(**tensors)
    assert_same(torch.cat([before.y, after.y], dim=1), whole.y)
    assert_same(after.final_state, whole.final_state)


@few
@given(num_tokens=lengths, num_groups=groups, seed=seeds, padding=st.integers(1, 70))
def test_padding_on_the_right_changes_nothing_before_it(
    operator: Operator, num_tokens: int, num_groups: int, seed: int, padding: int
) -> None:
    padded = draw(num_tokens + padding, num_groups, seed)
    by_token = ("x", "dt", "B", "C")
    short = operator(**{name: t[:, :num_tokens] if name in by_token else t for name, t in padded.items()})
    assert_same(operator(**padded).y[:, :num_tokens], short.y)
    # a step size of zero neither decays nor writes
    padded["dt"][:, num_tokens:] = 0
    assert_same(operator(**padded).final_state, short.final_state)


@few
@given(num_tokens=lengths, num_groups=groups, seed=seeds)
def test_consecutive_heads_share_a_group(operator: Operator, num_tokens: int, num_groups: int, seed: int) -> None:
    tensors = draw(num_tokens, num_groups, seed)
    shared = operator(**tensors)
    copied = {name: tensors[name].repeat_interleave(NUM_HEADS // num_groups, dim=2) for name in ("B", "C")}
    spelt_out = operator(**{**tensors, **copied})
    assert_same(shared.y, spelt_out.y)
    assert_same(shared.final_state, spelt_out.final_state)


@pytest.mark.parametrize("order", [(3, 1, 0, 2)])
def test_heads_do_not_see_each_other(operator: Operator, order: tuple[int, ...]) -> None:
    tensors = draw(50, NUM_HEADS, 0)
    axis = {"x": 2, "dt": 2, "A": 0, "B": 2, "C": 2, "D": 0, "initial_state": 1}
    turned = {name: tensor.index_select(axis[name], torch.tensor(order)) for name, tensor in tensors.items()}
    assert_same(operator(**turned).y, operator(**tensors).y[:, :, list(order)])
