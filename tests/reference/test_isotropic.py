import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reference.isotropic import isotropic_optimal_ridge, isotropic_risk

RIDGES = (1e-12, 1e-6, 1e-2, 1.0, 1e3, 1e6)
# Both sides of 1 but not next to it: there the law's lower edge comes so close to -λ that the quadrature needs more
# than its 4,000 points.
GAMMAS = (0.1, 0.5, 0.8, 1.25, 2.0, 8.0)


def marchenko_pastur_mean(function, gamma):
    # Midpoint rule in the angle that maps the support to a circle: it converges exponentially for analytic functions.
    angles = (np.arange(4000) + 0.5) * np.pi / 4000
    lower, upper = (1 - math.sqrt(gamma)) ** 2, (1 + math.sqrt(gamma)) ** 2
    points = (lower + upper) / 2 + (upper - lower) / 2 * np.cos(angles)
    density = ((upper - lower) / 2 * np.sin(angles)) ** 2 / (2 * np.pi * gamma * points)
    return np.pi * np.mean(density * function(points)) + max(0.0, 1 - 1 / gamma) * function(np.array(0.0))


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("ridge", RIDGES)
def test_ridge_risk_is_the_integral_over_the_marchenko_pastur_law(gamma, ridge):
    risk = isotropic_risk(gamma, signal=3.0, noise_trace=0.7, ridge=ridge)
    bias = 3.0 * marchenko_pastur_mean(lambda s: (ridge / (s + ridge)) ** 2, gamma)
    variance = 0.7 * gamma * marchenko_pastur_mean(lambda s: s / (s + ridge) ** 2, gamma)
    # 1e-10: the quadrature's own rounding, about 1e-13, with room for 4,000 terms
    assert risk.bias == pytest.approx(bias, rel=1e-10)
    assert risk.variance == pytest.approx(variance, rel=1e-10)


@pytest.mark.parametrize("gamma", [0.05, 0.5, 0.999, 1.001, 1.5, 30.0])
def test_without_ridge_the_textbook_formulas_hold(gamma):
    risk = isotropic_risk(gamma, signal=3.0, noise_trace=0.7)
    bias, variance = (0.0, 0.7 * gamma / (1 - gamma)) if gamma < 1 else (3.0 * (1 - 1 / gamma), 0.7 / (gamma - 1))
    # 1e-12: 1 - gamma loses three digits at 0.999
    assert risk.bias == pytest.approx(bias, rel=1e-12, abs=0)
    assert risk.variance == pytest.approx(variance, rel=1e-12)


def test_risk_vanishes_at_size_zero_and_ends_at_the_null_risk():
    ends = isotropic_risk([1e-9, 1e9], signal=2.0, noise_trace=5.0)
    np.testing.assert_allclose(ends.excess, [5e-9, 2.0], rtol=1e-8)


def test_at_the_threshold_variance_is_infinite_unless_there_is_no_noise():
    assert isotropic_risk(1.0, signal=2.0, noise_trace=1.0).variance == np.inf
    assert isotropic_risk(1.0, signal=2.0, noise_trace=0.0).excess == 0.0


@settings(deadline=None)
@given(gamma=st.floats(1e-2, 50), snr=st.floats(1e-2, 1e2), factor=st.floats(1e-3, 1e3))
def test_no_ridge_strength_beats_the_optimal_one(gamma, snr, factor):
    strength, best = isotropic_optimal_ridge(gamma=gamma, signal=snr, noise_trace=1.0)
    assert strength == pytest.approx(gamma / snr, rel=1e-14)
    other = isotropic_risk(gamma, signal=snr, noise_trace=1.0, ridge=strength * factor).excess
    assert best <= other * (1 + 1e-12)


@pytest.mark.parametrize("snr", [1.0, 5.0])
def test_risk_of_the_optimal_ridge_is_the_stieltjes_transform(snr):
    gammas = np.array([0.2, 0.5, 1.0, 1.5, 3.0])
    strengths = gammas / snr
    balance = 1 - gammas + strengths
    transforms = (np.sqrt(balance**2 + 4 * gammas * strengths) - balance) / (2 * gammas * strengths)
    risks = [isotropic_optimal_ridge(gamma=gamma, signal=snr, noise_trace=1.0)[1] for gamma in gammas]
    np.testing.assert_allclose(risks, gammas * transforms, rtol=1e-12)
    # simulated by 200 rows and up to 600 features; the digits printed, and 1.3 % for the finite size
    simulated = {1.0: [0.1924, 0.4123, 0.6131, 0.7164, 0.8485], 5.0: [0.0471, 0.1476, 0.3626, 0.5127, 0.7425]}[snr]
    np.testing.assert_allclose(np.array(risks) / snr, simulated, rtol=0.013)


def test_unseen_signal_counts_as_misspecification_and_as_noise():
    gammas, kept = np.array([0.2, 0.7, 1.4, 6.0]), np.array([0.3, 0.5, 0.9, 1.0])
    risk = isotropic_risk(gammas, signal=2.0, noise_trace=0.4, kept=kept)
    noise = 2.0 * (1 - kept) + 0.4
    below = 2.0 * (1 - kept) + noise * gammas / (1 - gammas)
    above = 2.0 * (1 - kept) + 2.0 * kept * (1 - 1 / gammas) + noise / (gammas - 1)
    # 1e-13: a handful of roundings
    np.testing.assert_allclose(risk.excess, np.where(gammas < 1, below, above), rtol=1e-13)
