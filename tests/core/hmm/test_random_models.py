"""Random transitions have the stated spectral radius, wider loadings contain narrower ones, and a seed is a draw."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.core import validation
from lab.core.errors import InputError
from lab.core.hmm.discrete import DiscreteHmm
from lab.core.hmm.random_models import (
    dirichlet_tables,
    gaussian_loading,
    general_transition,
    golden_points,
    orthogonal_transition,
    permutation_tables,
    symmetric_transition,
)

sizes = st.integers(1, 20)
radii = st.floats(0.01, 0.999)
seeds = st.integers(0, 2**32 - 1)


def rng(seed=0):
    return np.random.default_rng(seed)


@given(size=sizes, radius=radii, seed=seeds)
def test_random_transitions_have_the_stated_spectral_radius(size, radius, seed):
    for draw in (orthogonal_transition, symmetric_transition, general_transition):
        matrix = draw(size, radius, rng(seed))
        assert matrix.shape == (size, size)
        assert validation.spectral_radius(matrix) == pytest.approx(radius, rel=1e-10)


@given(size=sizes, radius=radii, seed=seeds)
def test_orthogonal_transitions_shrink_every_direction_alike(size, radius, seed):
    matrix = orthogonal_transition(size, radius, rng(seed))
    np.testing.assert_allclose(matrix @ matrix.T, radius**2 * np.eye(size), atol=1e-14)


@pytest.mark.parametrize("lowest", [0.0, -0.4, 0.9])
def test_symmetric_transitions_have_evenly_spaced_eigenvalues(lowest):
    matrix = symmetric_transition(7, 0.9, rng(), lowest_eigenvalue=lowest)
    np.testing.assert_array_equal(matrix, matrix.T)
    np.testing.assert_allclose(np.linalg.eigvalsh(matrix), np.linspace(lowest, 0.9, 7), atol=1e-14)


def test_random_rotations_are_uniform():
    # for O uniform, E[O] = 0 and E[O_ij^2] = 1/q; the first two moments at four standard errors
    draws = np.stack([orthogonal_transition(3, 0.5, rng(seed)) / 0.5 for seed in range(3000)])
    assert np.abs(draws.mean(axis=0)).max() < 4 * np.sqrt(1 / 3 / 3000)
    squares = draws**2
    assert np.abs(squares.mean(axis=0) - 1 / 3).max() < 4 * squares.std() / np.sqrt(3000)
    assert abs(np.linalg.det(draws).mean()) < 4 / np.sqrt(3000)


@pytest.mark.parametrize("num_points", [5, 50, 500])
def test_golden_points_fill_the_unit_interval_evenly_and_extend_each_other(num_points):
    points = golden_points(num_points)
    np.testing.assert_array_equal(golden_points(num_points + 3)[:num_points], points)
    # the largest gap of the golden-ratio sequence is below 2.7 of the mean gap (three-distance theorem)
    gaps = np.diff(np.concatenate([[0.0], np.sort(points), [1.0]]))
    assert gaps.min() > 0
    assert gaps.max() < 2.7 / (num_points + 1)


def test_loadings_extend_row_after_row_and_give_unit_variance():
    wide, narrow = gaussian_loading(4000, 5, rng(1)), gaussian_loading(30, 5, rng(1))
    np.testing.assert_array_equal(wide[:30], narrow)
    squares = np.sum(wide**2, axis=1)
    assert abs(squares.mean() - 1) < 4 * squares.std() / np.sqrt(4000)


def test_the_same_seed_is_the_same_draw():
    def draws(seed):
        random = rng(seed)
        return [
            orthogonal_transition(4, 0.9, random),
            symmetric_transition(4, 0.9, random),
            general_transition(4, 0.9, random),
            gaussian_loading(6, 4, random),
            *dirichlet_tables(3, 4, random, transition_concentration=1, emission_concentration=0.1),
            *permutation_tables(
                3, 4, random, start_temperature=10, transition_temperature=0.1, emission_temperature=0.1
            ),
        ]

    for one, other, different in zip(draws(2), draws(2), draws(3), strict=True):
        np.testing.assert_array_equal(one, other)
        assert not np.array_equal(one, different)


@pytest.mark.parametrize("concentration", [0.01, 0.1, 1.0, 100.0])
def test_dirichlet_tables_define_an_hmm(concentration):
    tables = dirichlet_tables(
        30, 50, rng(4), transition_concentration=concentration, emission_concentration=concentration
    )
    assert [table.shape for table in tables] == [(30,), (30, 30), (30, 50)]
    DiscreteHmm.from_tables(tables)
    # E sum p^2 = (a + 1) / (K a + 1), of 30 rows with K = 50 tokens
    squares = np.sum(tables.emission**2, axis=1)
    expected = (concentration + 1) / (50 * concentration + 1)
    assert abs(squares.mean() - expected) < 4 * squares.std() / np.sqrt(30)


def test_permutation_tables_follow_the_published_generator():
    tables = permutation_tables(
        9, 5, rng(5), start_temperature=10, transition_temperature=0.1, emission_temperature=0.5
    )
    DiscreteHmm.from_tables(tables)
    np.testing.assert_allclose(tables.transition.sum(axis=0), 1.0, rtol=1e-14)
    # softmax of numbers within 1 of each other: ratios up to exp(1 / temperature)
    assert tables.initial.max() / tables.initial.min() < np.exp(1 / 10)
    assert tables.emission.max() / tables.emission.min() < np.exp(1 / 0.5) * 5
    again = rng(5)
    start, weights = again.random(9) - 0.5, again.random(9) - 0.5
    np.testing.assert_allclose(tables.initial, np.exp(start / 10) / np.exp(start / 10).sum(), rtol=1e-13)
    mixture = np.zeros((9, 9))
    for weight in np.exp(weights / 0.1) / np.exp(weights / 0.1).sum():
        mixture += weight * np.eye(9)[again.permutation(9)]
    np.testing.assert_allclose(tables.transition, mixture, atol=1e-15)


DIRICHLET = {"transition_concentration": 1.0, "emission_concentration": 1.0}
TEMPERATURES = {"start_temperature": 10.0, "transition_temperature": 0.1, "emission_temperature": 0.1}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: orthogonal_transition(0, 0.9, rng()), "state_dim=0 must be a whole number of 1 or more; raise it"),
        (lambda: symmetric_transition(2.5, 0.9, rng()), r"state_dim=2\.5 must be a whole number"),
        (lambda: general_transition(0, 0.9, rng()), "state_dim=0 must be a whole number"),
        (lambda: orthogonal_transition(3, 1.0, rng()), r"spectral_radius=1 must lie in \[0, 1\); give a number"),
        (lambda: symmetric_transition(3, -0.1, rng()), r"spectral_radius=-0\.1 must lie in \[0, 1\); give a number"),
        (lambda: general_transition(3, np.nan, rng()), "spectral_radius=nan must be finite"),
        (
            lambda: symmetric_transition(3, 0.5, rng(), lowest_eigenvalue=-0.6),
            r"lowest_eigenvalue=-0\.6 must lie in \[-0\.5, 0\.5\]; give a number in between",
        ),
        (lambda: gaussian_loading(0, 3, rng()), "num_features=0 must be a whole number"),
        (lambda: gaussian_loading(3, 0, rng()), "state_dim=0 must be a whole number"),
        (lambda: dirichlet_tables(0, 3, rng(), **DIRICHLET), "num_states=0 must be a whole number"),
        (lambda: dirichlet_tables(3, 0, rng(), **DIRICHLET), "num_tokens=0 must be a whole number"),
        (
            lambda: dirichlet_tables(3, 3, rng(), **DIRICHLET | {"transition_concentration": 0.0}),
            "transition_concentration=0 must be positive; give a number above 0",
        ),
        (
            lambda: dirichlet_tables(3, 3, rng(), **DIRICHLET | {"emission_concentration": -1.0}),
            "emission_concentration=-1 must be positive; give a number above 0",
        ),
        *(
            (
                lambda name=name: permutation_tables(3, 3, rng(), **TEMPERATURES | {name: 0.0}),
                f"{name}=0 must be positive; give a number above 0",
            )
            for name in TEMPERATURES
        ),
        (lambda: permutation_tables(0, 3, rng(), **TEMPERATURES), "num_states=0 must be a whole number"),
        (lambda: permutation_tables(3, 0, rng(), **TEMPERATURES), "num_tokens=0 must be a whole number"),
    ],
)
def test_sizes_and_parameters_out_of_range_are_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()
