"""The diagnosis of tails: Fisher's distribution against exact fractions and a simulation, and known tails."""

from fractions import Fraction
from math import comb

import numpy as np
import pytest

from lab.experiments.hmm_risk.results.tails import is_heavy, largest_share, probability_of_share


def exactly(share: Fraction, count: int) -> float:
    """Fisher's sum in exact arithmetic."""
    terms = (
        (-1) ** (j - 1) * comb(count, j) * max(1 - j * share, Fraction(0)) ** (count - 1) for j in range(1, count + 1)
    )
    return float(sum(terms))


@pytest.mark.parametrize("count", [2, 3, 10, 30, 200])
def test_the_probability_is_fishers(count: int) -> None:
    for share in (Fraction(k, 64) for k in range(1, 64)):
        if share > Fraction(1, count):
            assert probability_of_share(float(share), count) == pytest.approx(exactly(share, count), rel=1e-9, abs=1e-9)
    assert probability_of_share(1 / count, count) == 1.0
    assert probability_of_share(1.0, count) == 0.0


def test_the_probability_is_that_of_exponential_draws() -> None:
    draws = np.random.default_rng(0).exponential(size=(20_000, 12))
    shares = largest_share(draws)
    for share in (0.2, 0.3, 0.45):
        expected = probability_of_share(share, 12)
        error = np.sqrt(expected * (1 - expected) / shares.size)
        assert np.mean(shares > share) == pytest.approx(expected, abs=4 * error)


def test_a_mean_that_one_draw_decides_is_none() -> None:
    rng = np.random.default_rng(1)
    light = np.stack([rng.exponential(size=(1, 30)), rng.uniform(size=(1, 30)), np.ones((1, 30))])
    heavy = np.stack([rng.pareto(0.5, size=(1, 30)), np.exp(4 * rng.standard_normal((1, 30)))])
    assert not is_heavy(light).any()
    assert is_heavy(heavy).all()
    assert not is_heavy(np.full((1, 1, 30), np.nan)).any()
    assert not is_heavy(np.zeros((1, 1, 30))).any()


def test_one_problem_that_decides_the_mean_is_seen_though_none_of_its_draws_does() -> None:
    values = np.ones((1, 20, 50))
    values[0, 3] = 10.0
    assert not is_heavy(values.reshape(1, 1, -1)).any()
    assert is_heavy(values).all()
