"""Both operators are associative, and their scans are what a loop in order gives, for any length and any split."""

import math

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from lab.core.errors import InputError
from lab.core.scan import associative_scan, combine_decay, combine_matrices, linear_recurrence, scale_rows

LENGTHS = [1, 2, 3, 4, 5, 7, 8, 13, 31, 64, 97, 127]
seeds = st.integers(0, 2**32 - 1)


def generator(seed):
    return torch.Generator().manual_seed(seed)


def decays(length, *, seed=0, shape=(2, 3), dtype=torch.float64):
    """Decays on both sides of 1, negative ones and zeros included, and values, time first."""
    random = generator(seed)
    decay = 1.5 * torch.randn((length, *shape), generator=random, dtype=torch.float64)
    decay[torch.rand(decay.shape, generator=random) < 0.1] = 0.0
    return decay.to(dtype), torch.randn((length, *shape), generator=random, dtype=torch.float64).to(dtype)


def matrices(length, *, seed=0, size=3, batch=2):
    """Non-negative matrices of very different masses, with zeros and whole rows of them."""
    random = generator(seed)
    result = torch.rand((length, batch, size, size), generator=random, dtype=torch.float64)
    result *= 10.0 ** torch.randint(-6, 7, (length, batch, size, 1), generator=random)
    result[torch.rand(result.shape, generator=random) < 0.2] = 0.0
    result[torch.rand(result.shape[:-1], generator=random) < 0.05] = 0.0
    return result


def written_out(rows, log_mass):
    return rows * log_mass.exp()


def assert_same(one, other, *, rtol=1e-12):
    for have, want in zip(one, other, strict=True):
        torch.testing.assert_close(have, want, rtol=rtol, atol=1e-13)


def loop(decay, values):
    state, states = torch.zeros_like(values[0]), []
    for a, b in zip(decay, values, strict=True):
        state = a * state + b
        states.append(state)
    return torch.stack(states)


@given(seed=seeds)
def test_decay_is_associative(seed):
    decay, values = decays(3, seed=seed)
    first, second, third = ((decay[t], values[t]) for t in range(3))
    left = combine_decay(combine_decay(first, second), third)
    assert_same(left, combine_decay(first, combine_decay(second, third)))


@given(seed=seeds)
def test_scaled_matrices_are_associative(seed):
    first, second, third = (tuple(scale_rows(matrix)) for matrix in matrices(3, seed=seed))
    left = combine_matrices(tuple(combine_matrices(first, second)), third)
    assert_same(left, combine_matrices(first, tuple(combine_matrices(second, third))))


@given(seed=seeds)
def test_scaled_matrices_multiply_as_matrices_do(seed):
    first, second = matrices(2, seed=seed)
    product = combine_matrices(tuple(scale_rows(first)), tuple(scale_rows(second)))
    torch.testing.assert_close(written_out(*product), first @ second, rtol=1e-12, atol=0.0)


@given(seed=seeds)
def test_rows_of_scaled_matrices_sum_to_one_or_are_zero(seed):
    scaled = scale_rows(matrices(1, seed=seed))
    sums = scaled.rows.sum(dim=-1, keepdim=True)
    torch.testing.assert_close(sums, scaled.log_mass.isfinite().double(), rtol=1e-14, atol=0.0)


@pytest.mark.parametrize("length", LENGTHS)
def test_recurrence_equals_the_loop(length):
    decay, values = decays(length)
    states = linear_recurrence(decay, values, dim=0)
    # |a| around 1 grows and shrinks: errors are compared with the largest state so far
    expected = loop(decay, values)
    scale = loop(decay.abs(), values.abs())
    assert ((states - expected).abs() <= 1e-13 * scale).all()


@pytest.mark.parametrize("length", LENGTHS)
def test_matrix_scan_equals_the_loop(length):
    elements = matrices(length, seed=1) + 1e-3
    rows, log_mass = associative_scan(combine_matrices, tuple(scale_rows(elements)), dim=0)
    product, log_scale = torch.eye(3, dtype=torch.float64).expand(2, 3, 3), 0.0
    for t in range(length):
        product = product @ elements[t]
        factor = product.amax(dim=(1, 2), keepdim=True)
        product, log_scale = product / factor, log_scale + factor.log()
        mass = product.sum(dim=-1, keepdim=True)
        torch.testing.assert_close(rows[t], product / mass, rtol=1e-12, atol=0.0)
        torch.testing.assert_close(log_mass[t], mass.log() + log_scale, rtol=1e-12, atol=1e-12)


@given(seed=seeds, length=st.integers(2, 40), data=st.data())
def test_any_split_gives_the_same_prefixes(seed, length, data):
    split = data.draw(st.integers(1, length - 1))
    decay, values = torch.rand((2, length, 3), generator=generator(seed), dtype=torch.float64)
    whole = associative_scan(combine_decay, (decay, values), 0)
    left = associative_scan(combine_decay, (decay[:split], values[:split]), 0)
    right = associative_scan(combine_decay, (decay[split:], values[split:]), 0)
    joined = combine_decay(tuple(part[-1:] for part in left), right)
    assert_same(whole, [torch.cat(parts) for parts in zip(left, joined, strict=True)])


@given(length=st.integers(1, 200))
@example(length=1)
@example(length=199)
def test_an_operator_that_does_not_commute_is_applied_in_order(length):
    # concatenation of digits, exact in int64 modulo a prime: x o y = x 10^len(y) + y
    prime = 2_147_483_647

    def concatenate(earlier, later):
        return (earlier[0] * later[1] + later[0]) % prime, earlier[1] * later[1] % prime

    digits = torch.arange(length) % 10
    values, _ = associative_scan(concatenate, (digits, torch.full_like(digits, 10)), 0)
    expected, number = [], 0
    for digit in digits.tolist():
        number = (10 * number + digit) % prime
        expected.append(number)
    assert values.tolist() == expected


def test_the_operator_is_applied_less_than_twice_a_token_in_logarithmic_depth():
    applied = []

    def counting(earlier, later):
        applied.append(earlier[0].shape[0])
        return combine_decay(earlier, later)

    associative_scan(counting, decays(1000), 0)
    assert sum(applied) < 2000
    assert len(applied) <= 2 * math.ceil(math.log2(1000))


@pytest.mark.parametrize("dim", [0, 1, -1, -3])
def test_every_axis_can_be_that_of_time(dim):
    decay, values = decays(7)
    moved = linear_recurrence(torch.movedim(decay, 0, dim), torch.movedim(values, 0, dim), dim=dim)
    torch.testing.assert_close(moved, torch.movedim(linear_recurrence(decay, values, dim=0), 0, dim))


def test_one_decay_can_serve_many_values():
    decay, values = decays(9)
    shared = decay[:, :, :1]
    expected = linear_recurrence(shared.expand_as(values), values, dim=0)
    torch.testing.assert_close(linear_recurrence(shared, values, dim=0), expected)


def test_four_thousand_steps_in_float32_stay_as_exact_as_the_loop():
    random = generator(2)
    decay = torch.rand((4096, 64), generator=random) * 0.2 + 0.8
    values = torch.randn((4096, 64), generator=random)
    expected = loop(decay.double(), values.double())
    error = (linear_recurrence(decay, values, dim=0).double() - expected).abs().max() / expected.abs().max()
    # a loop in float32 has 5e-7 here
    assert error < 1e-6


def test_a_row_that_leads_to_improbable_states_alone_does_not_underflow():
    # state 0 can only go to a state whose mass is 1e-500 of the other's
    first = scale_rows(torch.tensor([[1.0, 0.0], [0.5, 0.5]], dtype=torch.float64))
    rows, masses = torch.eye(2, dtype=torch.float64), torch.tensor([[-1150.0], [0.0]], dtype=torch.float64)
    product, log_mass = combine_matrices(tuple(first), (rows, masses))
    np.testing.assert_array_equal(product[0], [1.0, 0.0])
    assert log_mass[0].item() == -1150
    assert log_mass[1].item() == pytest.approx(math.log(0.5))


@pytest.mark.parametrize("length", [1, 2, 5])
def test_gradients_of_the_recurrence_are_right(length):
    decay, values = (tensor.requires_grad_() for tensor in decays(length, shape=(2,)))
    assert torch.autograd.gradcheck(lambda a, b: linear_recurrence(a, b, dim=0), (decay, values))


def test_gradients_of_the_matrix_scan_are_right():
    elements = torch.rand((4, 1, 2, 2), generator=generator(3), dtype=torch.float64)
    elements[1, 0, 0, 1] = 0.0

    def log_masses(x):
        # entries that are zero stay zero: the scale is chosen by the pattern of zeros
        return associative_scan(combine_matrices, tuple(scale_rows(x * (elements > 0))), 0)

    assert torch.autograd.gradcheck(log_masses, elements.clone().requires_grad_())


def test_impossible_rows_have_finite_gradients():
    elements = torch.rand((5, 1, 3, 3), generator=generator(4), dtype=torch.float64)
    elements[2, 0, 1] = 0.0
    elements.requires_grad_()
    rows, log_mass = associative_scan(combine_matrices, tuple(scale_rows(elements)), 0)
    (rows.square().sum() + log_mass[log_mass.isfinite()].sum()).backward()
    assert elements.grad.isfinite().all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: associative_scan(combine_decay, (), 0), r"elements have lengths \[\] along dim=0; give tensors"),
        (lambda: linear_recurrence(torch.ones(0), torch.ones(0), dim=0), r"lengths \[0\] .* one length above 0"),
        (lambda: linear_recurrence(torch.ones(3), torch.ones(4), dim=0), r"lengths \[3, 4\] .* give tensors"),
        (lambda: linear_recurrence(torch.ones(3), torch.ones(3, 2), dim=0), "decay has 1 axes but values have 2; give"),
    ],
)
def test_sequences_that_do_not_fit_are_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()
