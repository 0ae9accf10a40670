"""The two-level standard error against a one-way layout worked out by hand, and its coverage of a known truth."""

import numpy as np
import pytest

from lab.experiments.hmm_risk.results.spread import spread


def test_components_of_a_one_way_layout() -> None:
    # means of the problems 2, 4, 9: grand mean 5, variance (9 + 1 + 16) / 2 = 13
    # variances of the draws 2, 8, 2: mean 4, and 4 / 2 = 2 is the variance of one problem's mean
    found = spread(np.array([[[1.0, 3.0], [2.0, 6.0], [8.0, 10.0]]]))
    assert found.mean.tolist() == [5.0]
    assert found.standard_error[0] == pytest.approx(np.sqrt(13 / 3), rel=1e-14)
    assert found.between[0] == pytest.approx(np.sqrt(13 - 2), rel=1e-14)
    assert found.within[0] == pytest.approx(np.sqrt(2 / 3), rel=1e-14)
    assert found.z[0] == pytest.approx(5 / np.sqrt(13 / 3), rel=1e-14)


def test_one_problem_has_the_standard_error_of_its_draws_and_no_spread_between_problems() -> None:
    found = spread(np.array([[[1.0, 2.0, 3.0, 6.0]]]))
    assert found.standard_error[0] == found.within[0] == pytest.approx(np.sqrt(14 / 3 / 4), rel=1e-14)
    assert np.isnan(found.between[0])


def test_one_draw_of_each_problem_has_a_standard_error_and_no_components() -> None:
    found = spread(np.array([[[1.0], [2.0], [3.0], [6.0]]]))
    assert found.standard_error[0] == pytest.approx(np.sqrt(14 / 3 / 4), rel=1e-14)
    assert np.isnan([found.between[0], found.within[0]]).all()


def test_nothing_is_estimated_from_nothing() -> None:
    found = spread(np.empty((2, 3, 0)))
    assert np.isnan([found.mean, found.standard_error, found.between, found.within, found.z]).all()


@pytest.mark.parametrize(("between", "within"), [(0.0, 1.0), (1.0, 0.0), (1.0, 3.0)])
def test_an_interval_of_two_standard_errors_holds_the_truth(between: float, within: float) -> None:
    rng = np.random.default_rng(0)
    num_points, num_problems, num_draws = 4000, 30, 5
    problems = between * rng.standard_normal((num_points, num_problems, 1))
    found = spread(problems + within * rng.standard_normal((num_points, num_problems, num_draws)))
    covered = np.mean(np.abs(found.mean) < 2 * found.standard_error)
    # Student's t with 29 degrees of freedom: 94.5 %, and 0.4 % is its standard error here
    assert 0.93 < covered < 0.96
    if between and within:
        assert np.mean(np.abs(found.mean) < 2 * found.within) < 0.92
