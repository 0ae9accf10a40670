"""Solutions for many shifts against one solve for each, and against the eigenvalues where a solve knows too little."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.core import shifted
from lab.core.shifted import solve_shifted


def with_eigenvalues(eigenvalues, *, seed=0):
    rng = np.random.default_rng(seed)
    vectors, _ = np.linalg.qr(rng.standard_normal((len(eigenvalues), len(eigenvalues))))
    matrix = (vectors * eigenvalues) @ vectors.T
    return (matrix + matrix.T) / 2, vectors


def all_solutions(matrix, right, shifts):
    solutions = solve_shifted(matrix.copy(), right, shifts)
    return solutions.times().swapaxes(1, 2), solutions.chosen.size


@settings(max_examples=50)
@given(
    size=st.integers(1, 12),
    num_outputs=st.integers(1, 3),
    num_shifts=st.integers(1, 30),
    lowest=st.floats(-6, 3),
    decades=st.floats(0, 8),
    seed=st.integers(0, 1000),
)
def test_solutions_are_those_of_one_solve_for_each_shift(size, num_outputs, num_shifts, lowest, decades, seed):
    rng = np.random.default_rng(seed)
    matrix, _ = with_eigenvalues(10.0 ** rng.uniform(-8, 0, size), seed=seed)
    right = rng.standard_normal((size, num_outputs))
    shifts = np.logspace(lowest, lowest + decades, num_shifts)
    found, _ = all_solutions(matrix, right, shifts)
    for solution, shift in zip(found, shifts, strict=True):
        expected = np.linalg.solve(matrix + shift * np.eye(size), right)
        # 1e-6 is the largest share of the norm that a shift of ridge weights may have
        assert np.linalg.norm(solution - expected) < 1e-9 * np.linalg.norm(expected)


SPECTRA = {
    "bulk": np.linspace(600, 4200, 40),
    "down to zero": np.concatenate([np.zeros(5), np.geomspace(1e-3, 1600, 35)]),
    "few spikes": np.concatenate([np.ones(36), np.full(4, 1e5)]),
    "zero": np.zeros(40),
    "nearly singular": np.geomspace(1e-12, 1e5, 40),
}


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("num_shifts", [1, 20, 200])
def test_every_part_of_a_solution_is_known_to_ten_digits(spectrum, num_shifts):
    # seen from each eigenvector alone: none may be lost beside a larger one
    eigenvalues = SPECTRA[spectrum]
    shifts = np.geomspace(0.4, 4000, num_shifts)
    found, _ = all_solutions(np.diag(eigenvalues), np.eye(40), shifts)
    filters = np.diagonal(found, axis1=1, axis2=2)
    np.testing.assert_allclose(filters, 1 / (eigenvalues + shifts[:, None]), rtol=1e-10)


@pytest.mark.parametrize(
    ("shifts", "most"),
    [
        # the more shifts between the same ends, the smaller the share that is solved for
        (np.geomspace(0.4, 4000, 20), 12),
        (np.geomspace(0.4, 4000, 1000), 16),
        (np.full(20, 3.0), 1),
        # so large that K is nothing beside them
        (np.geomspace(1e20, 1e30, 50), 4),
    ],
)
def test_few_solutions_span_the_others(shifts, most):
    matrix, _ = with_eigenvalues(SPECTRA["bulk"])
    right = np.random.default_rng(1).standard_normal((40, 2))
    _, num_solved = all_solutions(matrix, right, shifts)
    assert num_solved <= most


def test_where_all_are_solved_for_they_are_in_order():
    matrix, _ = with_eigenvalues(SPECTRA["down to zero"])
    solutions = solve_shifted(matrix, np.ones((40, 1)), np.array([100.0, 1.0, 10.0]))
    assert solutions.chosen.tolist() == [0, 1, 2]
    assert np.argsort(np.linalg.norm(solutions.solved[..., 0], axis=0)).tolist() == [0, 2, 1]


@pytest.mark.parametrize("num_shifts", [1, 3, 60])
def test_all_solutions_times_a_factor_are_their_product_with_it(num_shifts):
    matrix, _ = with_eigenvalues(SPECTRA["bulk"])
    rng = np.random.default_rng(2)
    right, factor = rng.standard_normal((40, 3)), rng.standard_normal((40, 7))
    # in no order, so that the places of those that are solved for are not their ranks
    shifts = rng.permutation(np.geomspace(0.4, 4000, num_shifts))
    solutions = solve_shifted(matrix, right, shifts)
    np.testing.assert_allclose(solutions.times(factor), solutions.times() @ factor, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("shift", [1e-170, 1e160])
def test_shifts_near_the_ends_of_what_a_float_holds(shift):
    found = solve_shifted(np.zeros((3, 3)), np.ones((3, 2)), np.array([shift, 2 * shift])).times()
    np.testing.assert_allclose(found * shift, np.array([1.0, 0.5])[:, None, None] * np.ones((2, 2, 3)), rtol=1e-12)


@pytest.mark.parametrize("num_columns", [1, 2, 9])
def test_the_loop_gives_what_lapack_gives_without_a_compiler(num_columns, monkeypatch):
    if shifted._compiled() is None:
        pytest.skip("no C++ compiler")
    matrix, _ = with_eigenvalues(SPECTRA["down to zero"])
    right = np.random.default_rng(3).standard_normal((40, num_columns))
    shifts = np.geomspace(0.4, 4000, 20)
    found = solve_shifted(matrix, right, shifts).times()
    monkeypatch.setattr(shifted, "_compiled", lambda: None)
    expected = solve_shifted(matrix, right, shifts).times()
    assert np.all(np.linalg.norm(found - expected, axis=(1, 2)) < 1e-12 * np.linalg.norm(expected, axis=(1, 2)))
