import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from lab.core.errors import InputError
from lab.experiments.hmm_risk.isotropic import isotropic_optimal_ridge, isotropic_risk, landmarks

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
@given(
    gamma=st.floats(1e-3, 0.99), step=st.floats(1e-3, 0.5), snr=st.floats(1e-2, 1e3), noise_trace=st.floats(1e-3, 1e3)
)
def test_risk_rises_with_size_below_the_threshold_for_every_signal_to_noise_ratio(gamma, step, snr, noise_trace):
    larger = gamma + step * (1 - gamma) * 0.9
    small, large = isotropic_risk([gamma, larger], signal=snr * noise_trace, noise_trace=noise_trace).excess
    assert small < large


@settings(deadline=None)
@given(snr=st.floats(1e-2, 1e3))
def test_risk_crosses_the_null_risk_where_the_landmark_says(snr):
    marks = landmarks(signal=snr * 0.3, noise_trace=0.3)
    assert marks.null_risk == snr * 0.3
    crossing = isotropic_risk(marks.crossing, signal=snr * 0.3, noise_trace=0.3)
    # 1e-11: gamma/(1 - gamma) amplifies the rounding of gamma by 1 + SNR, at most 1e3
    assert crossing.excess == pytest.approx(marks.null_risk, rel=1e-11)


@pytest.mark.parametrize("snr", [1.2, 2.0, 5.0, 40.0])
def test_over_parameterised_minimum_is_that_of_a_numerical_search(snr):
    marks = landmarks(signal=snr * 0.3, noise_trace=0.3)

    def risk(gamma):
        return float(isotropic_risk(gamma, signal=snr * 0.3, noise_trace=0.3).excess)

    found = optimize.minimize_scalar(risk, bounds=(1 + 1e-6, 100.0), method="bounded", options={"xatol": 1e-9})
    # the risk is flat at its minimum: its place is found to the square root of rounding, its value to rounding
    assert marks.best_above == pytest.approx(found.x, rel=1e-6)
    assert marks.risk_above == pytest.approx(found.fun, rel=1e-12)


@pytest.mark.parametrize("snr", [0.1, 1.0])
def test_with_little_signal_the_second_descent_never_ends(snr):
    marks = landmarks(signal=snr, noise_trace=1.0)
    assert (marks.best_above, marks.risk_above) == (math.inf, snr)
    falling = isotropic_risk(np.geomspace(1.01, 1e4, 200), signal=snr, noise_trace=1.0).excess
    assert np.all(np.diff(falling) < 0)
    assert np.all(falling > snr)


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


def test_the_optimal_ridge_leaves_no_peak():
    gammas = np.geomspace(0.01, 100, 2001)
    risks = [isotropic_optimal_ridge(gamma=gamma, signal=5.0, noise_trace=1.0)[1] for gamma in gammas]
    assert np.all(np.diff(risks) > 0)
    assert risks[-1] < 5.0


def test_unseen_signal_counts_as_misspecification_and_as_noise():
    gammas, kept = np.array([0.2, 0.7, 1.4, 6.0]), np.array([0.3, 0.5, 0.9, 1.0])
    risk = isotropic_risk(gammas, signal=2.0, noise_trace=0.4, kept=kept)
    noise = 2.0 * (1 - kept) + 0.4
    below = 2.0 * (1 - kept) + noise * gammas / (1 - gammas)
    above = 2.0 * (1 - kept) + 2.0 * kept * (1 - 1 / gammas) + noise / (gammas - 1)
    # 1e-13: a handful of roundings
    np.testing.assert_allclose(risk.excess, np.where(gammas < 1, below, above), rtol=1e-13)


def test_a_fraction_one_rounding_above_one_is_all_of_the_signal():
    risk = isotropic_risk(0.5, signal=2.0, noise_trace=0.0, kept=1 + 4e-16)
    assert risk.excess == 0.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gamma": 0.0}, "gamma=0.0 must be finite and positive"),
        ({"gamma": [0.5, np.nan]}, "gamma=nan must be finite and positive"),
        ({"signal": -1.0}, "signal=-1.0 must be finite and at least 0"),
        ({"noise_trace": np.inf}, "noise_trace=inf must be finite and at least 0"),
        ({"ridge": -1e-9}, "ridge=-1e-09 must be finite and at least 0"),
        ({"kept": 1.5}, "kept=1.5 is a fraction"),
    ],
)
def test_bad_arguments_are_refused_by_name(change, message):
    arguments = {"gamma": 0.5, "signal": 1.0, "noise_trace": 1.0, **change}
    with pytest.raises(InputError, match=message.replace("(", r"\(")):
        isotropic_risk(arguments.pop("gamma"), **arguments)


def test_landmarks_need_noise_and_the_optimal_ridge_needs_signal():
    with pytest.raises(InputError, match=r"noise_trace=0.0 must be finite and positive"):
        landmarks(signal=1.0, noise_trace=0.0)
    with pytest.raises(InputError, match=r"signal=0.0 must be finite and positive"):
        isotropic_optimal_ridge(gamma=0.5, signal=0.0, noise_trace=1.0)
