"""The operator on scaled matrices is associative, and scans are what a loop in order gives, for any length."""

import math

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from reference.scan import associative_scan, combine_matrices, scale_rows

LENGTHS = [1, 2, 3, 4, 5, 7, 8, 13, 31, 64, 97, 127]
seeds = st.integers(0, 2**32 - 1)


def generator(seed):
    return torch.Generator().manual_seed(seed)


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


def test_a_row_that_leads_to_improbable_states_alone_does_not_underflow():
    # state 0 can only go to a state whose mass is 1e-500 of the other's
    first = scale_rows(torch.tensor([[1.0, 0.0], [0.5, 0.5]], dtype=torch.float64))
    rows, masses = torch.eye(2, dtype=torch.float64), torch.tensor([[-1150.0], [0.0]], dtype=torch.float64)
    product, log_mass = combine_matrices(tuple(first), (rows, masses))
    np.testing.assert_array_equal(product[0], [1.0, 0.0])
    assert log_mass[0].item() == -1150
    assert log_mass[1].item() == pytest.approx(math.log(0.5))
