"""Corrections of moments and lines for few rows: against closed forms, and against populations that are known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import Float64
from numpy import ndarray

from lab.core.heads.asymptotics import asymptotic_risk, exact_risk, finite_factor
from lab.core.heads.population import Spectrum
from lab.core.heads.sampled_moments import fresh_residuals, fresh_spectrum

# Letters: p width.


@given(st.integers(4, 200), st.integers(1, 300))
def test_the_factor_gives_the_exact_variance_where_there_is_a_closed_form(num_train: int, width: int) -> None:
    spectrum = Spectrum(np.full(width, 0.7), np.ones(width))
    exact = exact_risk(spectrum, 2.0, num_train=num_train)
    factor = finite_factor(spectrum, num_train=num_train)
    if exact is None:
        assert factor == 1
        return
    limit = asymptotic_risk(spectrum, 2.0, num_train=num_train, ridge=0.0)
    assert factor * limit.variance == pytest.approx(exact.variance, rel=1e-9)


@pytest.mark.parametrize("num_small", [100, 200, 300])
@pytest.mark.parametrize("least", [1e-2, 1e-6, 1e-14])
def test_the_factor_is_never_far_from_one_where_the_spectrum_is_steep(num_small: int, least: float) -> None:
    for num_large in range(90, 111):
        values = np.append(np.ones(num_large), np.full(num_small, least))
        spectrum = Spectrum(values, np.zeros(values.size))
        factor = finite_factor(spectrum, num_train=100)
        assert 1 <= factor <= 4 / 3
        if num_large == 100 and least < 1e-3:
            assert factor == 1


def simulated_variance(values: Float64[ndarray, " p"], num_train: int, draws: int) -> float:
    """Mean over Gaussian rows of tr (X X')^-1 X Sigma X' (X X')^-1."""
    rng = np.random.default_rng(0)
    total = 0.0
    for _ in range(draws):
        rows = rng.standard_normal((num_train, values.size)) * np.sqrt(values)
        total += float(np.sum((np.linalg.inv(rows @ rows.T) @ (rows * np.sqrt(values))) ** 2))
    return total / draws


def test_the_factor_is_near_simulations_up_to_a_quarter_of_the_rows() -> None:
    num_train = 40
    cases = [(np.arange(1, width + 1.0) ** -decay, 0.04) for decay in (0.5, 1.0) for width in (50, 60, 120)]
    # small eigenvalues alone keep the limit finite: too high, by less than a tenth
    cases.append((np.append(np.ones(40), np.full(80, 0.01)), 0.1))
    for values, near in cases:
        silent = Spectrum(values, np.zeros(values.size))
        limit = asymptotic_risk(silent, 1.0, num_train=num_train, ridge=0.0).variance
        found = finite_factor(silent, num_train=num_train) * limit
        assert found == pytest.approx(simulated_variance(values, num_train, 250), rel=near)
        assert finite_factor(silent, num_train=num_train) > 1


def test_floor_and_signal_of_a_population_are_found_from_few_of_its_rows() -> None:
    width, num_rows, outputs, noise = 60, 200, 50, 3.0
    rng = np.random.default_rng(0)
    scales, best = np.geomspace(3, 0.3, width), rng.standard_normal((width, outputs)) / (8 * outputs**0.5)
    floors, plain, signals = [], [], []
    for _ in range(20):
        rows = rng.standard_normal((num_rows, width)) * scales
        targets = rows @ best + rng.standard_normal((num_rows, outputs)) * (noise / outputs) ** 0.5
        values, vectors = np.linalg.eigh(rows.T @ rows / num_rows)
        fitted = np.linalg.lstsq(rows, targets, rcond=None)[0]
        squares = np.sum((targets - rows @ fitted) ** 2, axis=1)
        leverages = np.sum((rows @ vectors) ** 2 / values, axis=1)
        floor = float(fresh_residuals(squares, leverages, num_rows).mean())
        spectrum = fresh_spectrum(Spectrum(values, np.sum((vectors.T @ fitted) ** 2, axis=1)), floor, num_rows)
        floors.append(floor)
        plain.append(float(squares.mean()))
        signals.append(float(spectrum.eigenvalues @ spectrum.squared_coefficients))
    assert np.mean(floors) == pytest.approx(noise, rel=0.03)
    assert np.mean(signals) == pytest.approx(float(np.sum(scales**2 @ best**2)), rel=0.03)
    # what they are without the correction: 30 % less noise
    assert np.mean(plain) == pytest.approx(noise * (1 - width / num_rows), rel=0.03)


def test_a_row_that_determines_a_direction_alone_has_no_residual() -> None:
    found = fresh_residuals(np.array([1e-30, 2.0]), np.array([10.0, 5.0]), 10)
    np.testing.assert_allclose(found, [0.0, 4.0])


def test_no_direction_gives_up_more_signal_than_it_has() -> None:
    found = fresh_spectrum(Spectrum(np.array([2.0, 1.0, 0.0]), np.array([1.0, 0.01, 0.0])), 1.0, 20)
    np.testing.assert_allclose(found.squared_coefficients, [(2.01 - 0.1) / 2, 0.0, 0.0])
    silent = fresh_spectrum(Spectrum(np.array([2.0, 1.0]), np.array([0.01, 0.01])), 1.0, 20)
    assert not silent.squared_coefficients.any()
