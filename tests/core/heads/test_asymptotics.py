import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import optimize

from lab.core.errors import InputError
from lab.core.heads.asymptotics import asymptotic_risk, exact_risk, optimal_ridge
from lab.core.heads.population import Spectrum
from reference.isotropic import isotropic_optimal_ridge, isotropic_risk


@st.composite
def spectra(draw, *, decades=12, max_width=30):
    """Eigenvalues spread over many orders of magnitude, some of them equal, with any signal along them."""
    exponents = draw(st.lists(st.floats(-decades / 2, decades / 2), min_size=1, max_size=max_width))
    repeats = draw(st.integers(1, 3))
    eigenvalues = 10.0 ** np.repeat(exponents, repeats)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return Spectrum(eigenvalues, rng.standard_normal(eigenvalues.size) ** 2 / eigenvalues)


ridges = st.one_of(st.just(0.0), st.floats(-12, 6).map(lambda exponent: 10.0**exponent))
rows = st.integers(1, 60)


def polynomial_spectrum(width, *, decay=1.0):
    positions = np.arange(1, width + 1.0)
    return Spectrum(positions**-decay, np.cos(positions) ** 2)


@settings(deadline=None)
@given(spectrum=spectra(), num_train=rows, ridge=ridges)
@example(spectrum=Spectrum(np.ones(30), np.ones(30)), num_train=30, ridge=1e-12)
@example(spectrum=Spectrum(np.append(np.ones(30), np.full(30, 1e-12)), np.ones(60)), num_train=30, ridge=0.0)
@example(spectrum=Spectrum(np.ones(1), np.ones(1)), num_train=1, ridge=1e6)
def test_effective_ridge_solves_its_equation_in_exact_arithmetic(spectrum, num_train, ridge):
    kappa = asymptotic_risk(spectrum, 1.0, num_train=num_train, ridge=ridge).kappa
    if kappa == 0:
        assert ridge == 0
        assert spectrum.eigenvalues.size <= num_train
        return

    def imbalance(candidate):
        kept = sum(Fraction(s) / (Fraction(s) + candidate) for s in spectrum.eigenvalues.tolist())
        return Fraction(ridge) / candidate + kept / num_train - 1

    # The equation's two sides change order inside κ (1 ± 1e-12). The solver's tolerance is 1e-15 of log κ, which is
    # below 40 here, so some 5e-14; the rest is the rounding of 90 terms.
    margin = Fraction(1, 10**12)
    assert imbalance(Fraction(kappa) * (1 - margin)) > 0 > imbalance(Fraction(kappa) * (1 + margin))


@pytest.mark.parametrize("width", [20, 100, 199, 200, 201, 300, 2000])
@pytest.mark.parametrize("ridge", [0.0, 1e-12, 1e-6, 1e-2, 1.0, 1e6])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_isotropic_features_give_the_closed_form(width, ridge, scale):
    spectrum = Spectrum(np.full(width, scale), np.full(width, 3.0 / (width * scale)))
    risk = asymptotic_risk(spectrum, 0.7, num_train=200, ridge=ridge * scale)
    closed = isotropic_risk(width / 200, signal=3.0, noise_trace=0.7, ridge=ridge)
    assert risk.bias == pytest.approx(float(closed.bias), rel=1e-10, abs=0)
    assert risk.variance == pytest.approx(float(closed.variance), rel=1e-10)


@pytest.mark.parametrize("width", [101, 120, 200, 700])
@pytest.mark.parametrize("decay", [0.0, 0.5, 2.0])
def test_minimum_norm_risk_is_the_companion_form_of_hastie_and_others(width, decay):
    num_train, noise_trace = 100, 0.7
    spectrum = polynomial_spectrum(width, decay=decay)
    s, gamma = spectrum.eigenvalues, width / num_train
    # in their form c0 solves 1 - 1/γ = ∫ dH(s)/(1 + c0 γ s)
    c0 = math.exp(
        optimize.brentq(
            lambda log_c0: 1 - 1 / gamma - np.mean(1 / (1 + math.exp(log_c0) * gamma * s)), -30, 30, xtol=1e-14
        )
    )
    ratio = gamma * c0 * np.mean(s**2 / (1 + c0 * gamma * s) ** 2) / np.mean(s / (1 + c0 * gamma * s) ** 2)
    bias = (1 + ratio) * np.sum(spectrum.squared_coefficients * s / (1 + c0 * gamma * s) ** 2)
    risk = asymptotic_risk(spectrum, noise_trace, num_train=num_train, ridge=0.0)
    assert 1 / risk.kappa == pytest.approx(c0 * gamma, rel=1e-10)
    assert risk.bias == pytest.approx(bias, rel=1e-10)
    assert risk.variance == pytest.approx(noise_trace * ratio, rel=1e-10)


@pytest.mark.parametrize("width", [1, 60, 99])
def test_with_fewer_features_than_rows_covariance_does_not_matter(width):
    risk = asymptotic_risk(polynomial_spectrum(width, decay=3.0), 0.7, num_train=100, ridge=0.0)
    assert (risk.bias, risk.kappa) == (0.0, 0.0)
    assert risk.variance == pytest.approx(0.7 * width / (100 - width), rel=1e-14)


def test_at_the_threshold_variance_is_infinite_unless_there_is_no_noise():
    spectrum = polynomial_spectrum(100)
    assert asymptotic_risk(spectrum, 0.7, num_train=100, ridge=0.0).excess == math.inf
    assert asymptotic_risk(spectrum, 0.0, num_train=100, ridge=0.0).excess == 0.0
    assert math.isfinite(asymptotic_risk(spectrum, 0.7, num_train=100, ridge=1e-12).excess)


@pytest.mark.parametrize("width", [40, 160])
def test_vanishing_ridge_is_the_minimum_norm_head(width):
    spectrum = polynomial_spectrum(width)
    limit = asymptotic_risk(spectrum, 0.7, num_train=100, ridge=0.0)
    nearly = asymptotic_risk(spectrum, 0.7, num_train=100, ridge=1e-11)
    # the risk is differentiable in λ there, with a slope of some 1e3
    assert nearly.excess == pytest.approx(limit.excess, rel=1e-7)


@pytest.mark.parametrize("width", [40, 100, 160])
def test_growing_ridge_ends_at_the_null_risk(width):
    spectrum = polynomial_spectrum(width)
    null = float(spectrum.eigenvalues @ spectrum.squared_coefficients)
    assert asymptotic_risk(spectrum, 0.7, num_train=100, ridge=math.inf).excess == pytest.approx(null, rel=1e-14)
    # what is missing is of order s/λ
    assert asymptotic_risk(spectrum, 0.7, num_train=100, ridge=1e6).excess == pytest.approx(null, rel=3e-6)


# 1e-9: κ is good to 1e-12 and the eigenvalues of these spectra span twelve orders, which no formula amplifies by more
# than the number of features.
LAW = 1e-9


@settings(deadline=None)
@given(spectrum=spectra(), num_train=rows, ridge=ridges, exponent=st.floats(-6, 6))
def test_units_of_the_features_do_not_matter(spectrum, num_train, ridge, exponent):
    scale = 10.0**exponent
    rescaled = Spectrum(spectrum.eigenvalues * scale, spectrum.squared_coefficients / scale)
    before = asymptotic_risk(spectrum, 1.0, num_train=num_train, ridge=ridge)
    after = asymptotic_risk(rescaled, 1.0, num_train=num_train, ridge=ridge * scale)
    assert after.bias == pytest.approx(before.bias, rel=LAW)
    assert after.variance == pytest.approx(before.variance, rel=LAW)


@settings(deadline=None)
@given(spectrum=spectra(), num_train=rows, ridge=ridges, factor=st.floats(1e-3, 1e3))
def test_bias_is_linear_in_the_signal_and_variance_in_the_noise(spectrum, num_train, ridge, factor):
    louder = Spectrum(spectrum.eigenvalues, spectrum.squared_coefficients * factor)
    before = asymptotic_risk(spectrum, 1.0, num_train=num_train, ridge=ridge)
    more_noise = asymptotic_risk(spectrum, factor, num_train=num_train, ridge=ridge)
    more_signal = asymptotic_risk(louder, 1.0, num_train=num_train, ridge=ridge)
    assert more_noise.bias == before.bias
    assert more_noise.variance == pytest.approx(before.variance * factor, rel=1e-14)
    assert more_signal.variance == before.variance
    assert more_signal.bias == pytest.approx(before.bias * factor, rel=1e-12)


@settings(deadline=None)
@given(spectrum=spectra(), num_train=rows, ridge=ridges, seed=st.integers(0, 1000), num_constant=st.integers(0, 5))
def test_order_of_the_features_and_constant_features_do_not_matter(spectrum, num_train, ridge, seed, num_constant):
    order = np.random.default_rng(seed).permutation(spectrum.eigenvalues.size + num_constant)
    padded = Spectrum(
        np.append(spectrum.eigenvalues, np.zeros(num_constant))[order],
        np.append(spectrum.squared_coefficients, np.ones(num_constant))[order],
    )
    before = asymptotic_risk(spectrum, 1.0, num_train=num_train, ridge=ridge)
    after = asymptotic_risk(padded, 1.0, num_train=num_train, ridge=ridge)
    assert after.bias == pytest.approx(before.bias, rel=1e-12)
    assert after.variance == pytest.approx(before.variance, rel=1e-12)


@pytest.mark.parametrize("width", [39, 40, 41])
def test_no_exact_line_where_the_mean_is_infinite(width):
    assert exact_risk(Spectrum(np.ones(width), np.ones(width)), 0.7, num_train=40) is None


def test_no_exact_line_for_unequal_eigenvalues_beyond_the_threshold():
    assert exact_risk(polynomial_spectrum(60), 0.7, num_train=40) is None
    assert exact_risk(Spectrum(np.full(60, 2.0), np.ones(60)), 0.7, num_train=40) is not None


@pytest.mark.parametrize("width", [1, 20, 199, 200, 201, 600])
@pytest.mark.parametrize("snr", [1e-4, 0.2, 5.0, 1e4])
@pytest.mark.parametrize("scale", [1e-5, 1.0, 1e5])
def test_optimal_ridge_of_isotropic_features_is_gamma_over_snr(width, snr, scale):
    spectrum = Spectrum(np.full(width, scale), np.full(width, snr / (width * scale)))
    optimum = optimal_ridge(spectrum, 1.0, num_train=200)
    strength, risk = isotropic_optimal_ridge(gamma=width / 200, signal=snr, noise_trace=1.0)
    # The valley is flat: its place in κ is known to the square root of rounding over its curvature, its value to
    # rounding. At SNR 1e-4 the whole curve is flat to 1e-4.
    tolerance = 1e-4 if snr == 1e-4 else 1e-5
    assert optimum.strength == pytest.approx(strength * scale, rel=tolerance, abs=1e-7 * optimum.risk.kappa)
    assert optimum.risk.excess == pytest.approx(risk, rel=1e-10)


@settings(max_examples=60, deadline=None)
@given(spectrum=spectra(max_width=15), num_train=rows, exponent=st.floats(-8, 8))
def test_no_ridge_strength_beats_the_optimal_one(spectrum, num_train, exponent):
    noise_trace = 10.0**exponent
    best = optimal_ridge(spectrum, noise_trace, num_train=num_train)
    assert asymptotic_risk(spectrum, noise_trace, num_train=num_train, ridge=best.strength) == best.risk
    others = [
        asymptotic_risk(spectrum, noise_trace, num_train=num_train, ridge=ridge).excess
        for ridge in (0.0, *np.logspace(-18, 18, 73), math.inf)
    ]
    assert best.risk.excess <= min(others) * (1 + 1e-10)


@pytest.mark.parametrize(
    ("noise_trace", "is_small"), [(20.0, True), (50.0, True), (150.0, True), (200.0, False), (400.0, False)]
)
def test_optimal_ridge_is_the_deeper_of_two_valleys(noise_trace, is_small):
    # Strong features call for a ridge of their size, and weak ones that carry signal for one 1e5 times smaller.
    spectrum = Spectrum(np.repeat([1.0, 1e-5], [20, 15]), np.repeat([24.0, 1e6], [20, 15]))
    risks = np.array(
        [asymptotic_risk(spectrum, noise_trace, num_train=42, ridge=ridge).excess for ridge in np.logspace(-8, 4, 400)]
    )
    assert np.count_nonzero((risks[1:-1] < risks[:-2]) & (risks[1:-1] < risks[2:])) == 2
    optimum = optimal_ridge(spectrum, noise_trace, num_train=42)
    assert (optimum.strength < 1e-3) == is_small
    # the grid's steps of 7 % miss the bottom by no more than 0.07² times a curvature of order one
    assert risks.min() * (1 - 5e-3) < optimum.risk.excess <= risks.min()


def test_optimal_ridge_removes_the_peak_and_the_minimum_norm_head_has_it():
    widths = [*range(20, 100, 8), 98, 99, 100, 101, 102, *range(108, 300, 8)]
    spectra_of = [Spectrum(np.arange(1, width + 1.0) ** -0.5, np.ones(width)) for width in widths]
    optimal = np.array([optimal_ridge(spectrum, 5.0, num_train=100).risk.excess for spectrum in spectra_of])
    ridgeless = np.array([asymptotic_risk(spectrum, 5.0, num_train=100, ridge=0.0).excess for spectrum in spectra_of])
    assert widths[int(np.argmax(ridgeless))] == 100
    # each feature adds its own signal, so the curve rises steadily; near the threshold no step may stand out
    steps = np.diff(optimal) / np.diff(widths)
    assert np.all(steps > 0)
    assert np.all(np.abs(np.diff(steps)) < 0.1 * steps[:-1])


def test_optimal_ridge_is_zero_without_noise_and_infinite_without_signal():
    flat = Spectrum(np.ones(60), np.ones(60))
    assert optimal_ridge(flat, 0.0, num_train=40).strength == 0.0
    assert optimal_ridge(flat, 0.0, num_train=80).risk.excess == 0.0
    silent = optimal_ridge(Spectrum(np.ones(60), np.zeros(60)), 1.0, num_train=40)
    assert (silent.strength, silent.risk.excess, silent.risk.kappa) == (math.inf, 0.0, math.inf)


def test_optimal_ridge_is_zero_when_the_signal_lies_where_the_variance_is_not():
    # The target depends on the first, strong feature alone and 60 weak features act as a ridge of their own: more
    # shrinkage only harms. A known case of a non-positive optimum (Kobak, Lomond and Sanchez, JMLR 2020).
    spectrum = Spectrum(np.append(100.0, np.full(200, 1.0)), np.append(1.0, np.zeros(200)))
    optimum = optimal_ridge(spectrum, 1e-4, num_train=40)
    assert optimum.strength == 0.0
    assert asymptotic_risk(spectrum, 1e-4, num_train=40, ridge=1e-3).excess > optimum.risk.excess


def test_read_only_and_strided_spectra_work_and_stay_as_they_are():
    table = np.array([[1.0, 9.0], [0.5, 9.0], [2.0, 9.0]])
    table.flags.writeable = False
    strided = Spectrum(table[:, 0], table[:, 0])
    plain = Spectrum(table[:, 0].copy(), table[:, 0].copy())
    before = table.copy()
    for num_train in (2, 5):
        assert optimal_ridge(strided, 0.5, num_train=num_train) == optimal_ridge(plain, 0.5, num_train=num_train)
        assert exact_risk(strided, 0.5, num_train=num_train) == exact_risk(plain, 0.5, num_train=num_train)
    np.testing.assert_array_equal(table, before)


ONES = np.ones(3)


@pytest.mark.parametrize(
    ("spectrum", "noise_trace", "num_train", "ridge", "message"),
    [
        (Spectrum(ONES, ONES), 1.0, 5, -0.1, "ridge=-0.1 must be positive, or 0"),
        (Spectrum(ONES, ONES), 1.0, 5, math.nan, "ridge=nan must be"),
        (Spectrum(ONES, ONES), -1.0, 5, 0.0, "noise_trace=-1.0 must be"),
        (Spectrum(ONES, ONES), math.inf, 5, 0.0, "noise_trace=inf must be"),
        (Spectrum(ONES, ONES), 1.0, 0, 0.0, "num_train=0 must be at least 1 row"),
        (Spectrum(ONES, ONES[:2]), 1.0, 5, 0.0, r"shape \(3,\) and squared_coefficients of shape \(2,\)"),
        (Spectrum(ONES[:0], ONES[:0]), 1.0, 5, 0.0, "at least one feature"),
        (Spectrum(-ONES, ONES), 1.0, 5, 0.0, r"spectrum.eigenvalues contains -1.0"),
        (Spectrum(ONES, ONES * np.nan), 1.0, 5, 0.0, "spectrum.squared_coefficients contains nan"),
        (Spectrum(ONES * 0, ONES), 1.0, 5, 0.0, "spectrum.eigenvalues are all 0"),
    ],
)
def test_bad_arguments_are_refused_by_name(spectrum, noise_trace, num_train, ridge, message):
    with pytest.raises(InputError, match=message):
        asymptotic_risk(spectrum, noise_trace, num_train=num_train, ridge=ridge)
