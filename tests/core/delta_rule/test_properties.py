"""Laws of the gated delta rule that hold for any input, for both tiers of the chunked form."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import normalize

from lab.core.delta_rule import DeltaRuleOutput

Operator = Callable[..., DeltaRuleOutput]

NUM_HEADS, KEY_DIM, VALUE_DIM = 4, 6, 3
BY_TOKEN = ("q", "k", "v", "g", "beta")

# the fixture is the same function for every example
few = settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
lengths = st.integers(1, 90)
chunk_sizes = st.integers(1, 100)
sharings = st.sampled_from([(4, 4, 4), (4, 2, 2), (1, 1, 4), (2, 4, 1)])
seeds = st.integers(0, 2**32 - 1)


def draw(num_tokens: int, sharing: tuple[int, int, int], seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    q_heads, k_heads, v_heads = sharing
    return {
        "q": normal(1, num_tokens, q_heads, KEY_DIM),
        "k": normalize(normal(1, num_tokens, k_heads, KEY_DIM), dim=-1),
        "v": normal(1, num_tokens, v_heads, VALUE_DIM),
        "g": -normal(1, num_tokens, NUM_HEADS).exp(),
        "beta": 2 * torch.sigmoid(normal(1, num_tokens, NUM_HEADS)),
        "initial_state": normal(1, NUM_HEADS, VALUE_DIM, KEY_DIM),
    }


def part(tensors: dict[str, Tensor], tokens: slice) -> dict[str, Tensor]:
    return {name: tensor[:, tokens] if name in BY_TOKEN else tensor for name, tensor in tensors.items()}


def assert_same(found: Tensor, expected: Tensor) -> None:
    largest = float(expected.abs().max()) if expected.numel() else 0.0
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12 * max(1.0, largest))


@few
@given(num_tokens=lengths, sharing=sharings, seed=seeds, factor=st.floats(-3, 3))
def test_it_is_linear_in_the_values_and_the_initial_state(
    operator: Operator, num_tokens: int, sharing: tuple[int, int, int], seed: int, factor: float
) -> None:
    first, second = draw(num_tokens, sharing, seed), draw(num_tokens, sharing, seed + 1)
    linear = ("v", "initial_state")
    rest = {name: tensor for name, tensor in first.items() if name not in linear}
    mixed = operator(**rest, **{name: first[name] + factor * second[name] for name in linear})
    ours, theirs = (operator(**rest, **{name: tensors[name] for name in linear}) for tensors in (first, second))
    assert_same(mixed.y, ours.y + factor * theirs.y)
    assert_same(mixed.final_state, ours.final_state + factor * theirs.final_state)


@few
@given(num_tokens=lengths, sharing=sharings, seed=seeds)
def test_without_writes_the_state_only_decays(
    operator: Operator, num_tokens: int, sharing: tuple[int, int, int], seed: int
) -> None:
    tensors = draw(num_tokens, sharing, seed)
    tensors["beta"] = torch.zeros_like(tensors["beta"])
    output = operator(**tensors)
    kept = tensors["g"].cumsum(1).exp()
    queries = tensors["q"].repeat_interleave(NUM_HEADS // sharing[0], dim=2)
    expected = torch.einsum("bth,bhvk,bthk->bthv", kept, tensors["initial_state"], queries)
    assert_same(output.y, expected)
    assert_same(output.final_state, kept[:, -1, :, None, None] * tensors["initial_state"])


@few
@given(seed=seeds, chunk_size=chunk_sizes)
def test_orthonormal_keys_without_decay_recall_every_value(operator: Operator, seed: int, chunk_size: int) -> None:
    tensors = draw(2 * KEY_DIM, (4, 4, 4), seed)
    keys = torch.linalg.qr(torch.randn(KEY_DIM, KEY_DIM, generator=torch.Generator().manual_seed(seed)).double()).Q
    tensors["k"] = keys.repeat(2, 1)[None, :, None].expand(1, -1, NUM_HEADS, -1)
    tensors["q"] = tensors["k"].roll(1, dims=1)
    tensors["g"], tensors["beta"] = torch.zeros_like(tensors["g"]), torch.ones_like(tensors["beta"])
    output = operator(**tensors, chunk_size=chunk_size)
    # a key that comes again replaces its value, whatever the state held before
    assert_same(output.y[:, KEY_DIM + 1 :], tensors["v"][:, KEY_DIM:-1])
    written = torch.einsum("thv,tk->hvk", tensors["v"][0, KEY_DIM:], keys)
    assert_same(output.final_state[0], written)


@few
@given(num_tokens=lengths, sharing=sharings, seed=seeds, chunk_size=chunk_sizes, other=chunk_sizes)
def test_the_chunk_size_changes_nothing(
    operator: Operator, num_tokens: int, sharing: tuple[int, int, int], seed: int, chunk_size: int, other: int
) -> None:
    tensors = draw(num_tokens, sharing, seed)
    found, expected = (operator(**tensors, chunk_size=size) for size in (chunk_size, other))
    assert_same(found.y, expected.y)
    assert_same(found.final_state, expected.final_state)


@few
@given(num_tokens=lengths, sharing=sharings, seed=seeds, split=st.floats(0, 1))
def test_the_state_carries_from_one_call_to_the_next(
    operator: Operator, num_tokens: int, sharing: tuple[int, int, int], seed: int, split: float
) -> None:
    tensors = draw(num_tokens, sharing, seed)
    at = round(split * num_tokens)
    before = operator(**part(tensors, slice(None, at)))
    after = operator(**{**part(tensors, slice(at, None)), "initial_state": before.final_state})
    whole = operator(**tensors)
    assert_same(torch.cat([before.y, after.y], dim=1), whole.y)
    assert_same(after.final_state, whole.final_state)


@few
@given(num_tokens=lengths, sharing=sharings, seed=seeds, padding=st.integers(1, 70))
def test_padding_on_the_right_changes_nothing_before_it(
    operator: Operator, num_tokens: int, sharing: tuple[int, int, int], seed: int, padding: int
) -> None:
    padded = draw(num_tokens + padding, sharing, seed)
    short = operator(**part(padded, slice(num_tokens)))
    assert_same(operator(**padded).y[:, :num_tokens], short.y)
    # a token that neither decays nor writes
    for name in ("g", "beta"):
        padded[name][:, num_tokens:] = 0
    assert_same(operator(**padded).final_state, short.final_state)


@few
@given(num_tokens=lengths, sharing=sharings, seed=seeds)
def test_consecutive_heads_share(operator: Operator, num_tokens: int, sharing: tuple[int, int, int], seed: int) -> None:
    tensors = draw(num_tokens, sharing, seed)
    copied = {
        name: tensors[name].repeat_interleave(NUM_HEADS // tensors[name].shape[2], dim=2) for name in ("q", "k", "v")
    }
    shared, spelt_out = operator(**tensors), operator(**{**tensors, **copied})
    assert_same(shared.y, spelt_out.y)
    assert_same(shared.final_state, spelt_out.final_state)


@few
@given(num_tokens=lengths, seed=seeds, scale=st.floats(-3, 3))
def test_the_scale_is_that_of_the_output(operator: Operator, num_tokens: int, seed: int, scale: float) -> None:
    tensors = draw(num_tokens, (4, 4, 4), seed)
    scaled, plain = operator(**tensors, scale=scale), operator(**tensors)
    assert_same(scaled.y, scale * plain.y)
    assert torch.equal(scaled.final_state, plain.final_state)


@pytest.mark.parametrize("order", [(3, 1, 0, 2)])
def test_heads_do_not_see_each_other(operator: Operator, order: tuple[int, ...]) -> None:
    tensors = draw(50, (4, 4, 4), 0)
    turned = {
        name: tensor.index_select(1 if name == "initial_state" else 2, torch.tensor(order))
        for name, tensor in tensors.items()
    }
    assert_same(operator(**turned).y, operator(**tensors).y[:, :, list(order)])
