"""The risk of all leading blocks at once, against eigendecompositions of each, and 50 digits."""

import math

import numpy as np
import pytest
from mpmath import mp, mpf

from lab.core.errors import InputError
from lab.core.heads.asymptotics import asymptotic_risk, optimal_ridge
from lab.core.heads.leading_blocks import LeadingBlocks
from lab.core.heads.population import DensePopulation

NUM_TRAIN = 20
WIDTHS = [1, 2, 7, 13, 19, 20, 21, 22, 30, 45]


def population(*, decay: float, noise: float = 0.3, unit: float = 1.0) -> DensePopulation:
    """Features that are random sums of 45 others whose variances decay; three targets."""
    rng = np.random.default_rng(5)
    variances = unit**2 * np.arange(1, 46.0) ** -decay
    directions, signal = rng.standard_normal((45, 45)), rng.standard_normal((45, 3)) / unit
    covariance = directions.T @ (variances[:, None] * directions)
    cross = directions.T @ (variances[:, None] * signal)
    trace = float(np.sum(signal**2 * variances[:, None])) * (1 + noise)
    return DensePopulation((covariance + covariance.T) / 2, cross, trace)


@pytest.mark.parametrize("unit", [1.0, 1e-3])
@pytest.mark.parametrize("decay", [0.0, 1.5])
@pytest.mark.parametrize("ridge", [0.0, 0.05, 40.0])
def test_every_width_has_the_risk_of_its_own_spectrum(decay: float, ridge: float, unit: float) -> None:
    rows, strength = population(decay=decay, unit=unit), ridge * unit**2
    found = LeadingBlocks(rows, WIDTHS).risks(num_train=NUM_TRAIN, ridge=strength)
    for place, width in enumerate(WIDTHS):
        known = asymptotic_risk(rows.spectrum(width), rows.noise_trace(width), num_train=NUM_TRAIN, ridge=strength)
        assert found.kappa[place] == pytest.approx(known.kappa, rel=1e-9, abs=0)
        assert found.variance[place] == pytest.approx(known.variance, rel=1e-7)
        # next to p = n the bias is the square of a κ that is almost zero
        assert found.bias[place] == pytest.approx(known.bias, rel=1e-6, abs=1e-9 * rows.signal(width))


@pytest.mark.parametrize(("decay", "noise"), [(0.0, 0.3), (1.5, 0.3), (0.5, 20.0), (0.5, 1e-3)])
def test_every_width_has_its_best_strength(decay: float, noise: float) -> None:
    rows = population(decay=decay, noise=noise)
    found = LeadingBlocks(rows, WIDTHS).best_risks(num_train=NUM_TRAIN)
    for place, width in enumerate(WIDTHS):
        best = optimal_ridge(rows.spectrum(width), rows.noise_trace(width), num_train=NUM_TRAIN)
        assert found.ridges[place] == pytest.approx(best.strength, rel=5e-3)
        assert found.excess[place] == pytest.approx(best.risk.excess, rel=1e-6)
        assert found.bias[place] == pytest.approx(best.risk.bias, rel=2e-3)


@pytest.mark.parametrize("num_silent", [8, 45])
def test_without_signal_the_head_that_predicts_zero_is_best(num_silent: int) -> None:
    rows = population(decay=0.5)
    cross = np.where(np.arange(45)[:, None] < num_silent, 0, rows.cross)
    rows = DensePopulation(rows.covariance, cross, 100 * rows.target_variance)
    found = LeadingBlocks(rows, WIDTHS).best_risks(num_train=NUM_TRAIN)
    for place, width in enumerate(WIDTHS):
        best = optimal_ridge(rows.spectrum(width), rows.noise_trace(width), num_train=NUM_TRAIN)
        assert math.isinf(best.strength) == math.isinf(found.ridges[place]) == (width <= num_silent)
        assert found.excess[place] == pytest.approx(best.risk.excess, rel=1e-6)


def test_a_width_against_fifty_digits() -> None:
    rows, width = population(decay=1.5), 30
    found = LeadingBlocks(rows, [width]).risks(num_train=NUM_TRAIN, ridge=0.0)
    with mp.workdps(50):
        sigma, cross = mp.matrix(rows.covariance[:width, :width].tolist()), mp.matrix(rows.cross[:width].tolist())
        eigenvalues, vectors = mp.eigsy(sigma)
        along = vectors.T * cross
        # signals b_i² s_i
        signals = [sum(along[i, j] ** 2 for j in range(3)) / eigenvalues[i] for i in range(width)]
        kappa = mp.findroot(lambda k: sum(s / (s + k) for s in eigenvalues) - NUM_TRAIN, mpf(float(found.kappa[0])))
        degrees = sum((s / (s + kappa)) ** 2 for s in eigenvalues)
        margin = 1 - degrees / NUM_TRAIN
        bias = sum(b * (kappa / (s + kappa)) ** 2 for b, s in zip(signals, eigenvalues, strict=True)) / margin
        variance = (mpf(rows.target_variance) - sum(signals)) * degrees / NUM_TRAIN / margin
    assert found.bias[0] == pytest.approx(float(bias), rel=1e-9)
    assert found.variance[0] == pytest.approx(float(variance), rel=1e-9)
    assert math.isfinite(found.excess[0])


def test_features_that_determine_each_other_are_refused() -> None:
    rows = population(decay=0.0)
    twice = np.vstack([rows.covariance[:5], rows.covariance[4]])[:, [0, 1, 2, 3, 4, 4]]
    with pytest.raises(InputError, match="in its first 6 features"):
        LeadingBlocks(DensePopulation(twice, rows.cross[[0, 1, 2, 3, 4, 4]], rows.target_variance), [2, 6])
