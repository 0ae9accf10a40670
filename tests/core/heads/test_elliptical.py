"""Rows whose scale varies: against the Gaussian formulas, against closed forms, and against simulated heads."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import Float64
from numpy import ndarray

from lab.core.errors import InputError
from lab.core.heads.asymptotics import asymptotic_risk
from lab.core.heads.elliptical import elliptical_risk, row_scales
from lab.core.heads.linear_head import LinearHead
from lab.core.heads.population import Spectrum

# Letters: p width.

NUM_TRAIN = 80


def spectrum_of(width: int) -> Spectrum:
    return Spectrum(np.geomspace(4, 0.2, width), np.linspace(1, 3, width) / width)


@given(st.integers(1, 300), st.sampled_from([0.0, 1e-3, 0.1, 3.0, 1e20, 1e100]))
def test_equal_scales_are_gaussian_rows(width: int, ridge: float) -> None:
    if ridge == 0 and width == NUM_TRAIN:
        return
    ours = elliptical_risk(spectrum_of(width), np.ones(7), np.full(7, 0.5), num_train=NUM_TRAIN, ridge=ridge)
    theirs = asymptotic_risk(spectrum_of(width), 0.5, num_train=NUM_TRAIN, ridge=ridge)
    assert ours.bias == pytest.approx(theirs.bias, rel=1e-8, abs=1e-12)
    assert ours.variance == pytest.approx(theirs.variance, rel=1e-8, abs=1e-30)
    assert ours.kappa == pytest.approx(theirs.kappa, rel=1e-8)


def simulated(width: int, ridge: float, scales: Float64[ndarray, " k"], noise: Float64[ndarray, " k"]) -> list[float]:
    """Excess risk of fitted heads on rows whose scale, and noise, take each of some values equally often."""
    spectrum, risks = spectrum_of(width), []
    root, best = np.sqrt(spectrum.eigenvalues), np.sqrt(spectrum.squared_coefficients)[:, None]
    for draw in range(60):
        rng = np.random.default_rng(draw)
        which = rng.integers(scales.size, size=NUM_TRAIN)
        features = rng.standard_normal((NUM_TRAIN, width)) * root * np.sqrt(scales[which])[:, None]
        targets = features @ best + (rng.standard_normal(NUM_TRAIN) * np.sqrt(noise[which]))[:, None]
        error = LinearHead.fit(features, targets, ridge=ridge, rtol=1e-12).weight - best
        risks.append(float(np.sum(spectrum.eigenvalues[:, None] * error**2)))
    return risks


@pytest.mark.parametrize(("width", "ridge"), [(30, 0.0), (160, 0.0), (30, 0.05), (80, 0.05), (160, 0.5)])
def test_heads_on_simulated_rows_have_this_risk(width: int, ridge: float) -> None:
    scales, noise = np.array([0.3, 0.7, 2.0]), np.array([0.2, 0.4, 1.5])
    risks = simulated(width, ridge, scales, noise)
    theory = elliptical_risk(spectrum_of(width), scales, noise, num_train=NUM_TRAIN, ridge=ridge).excess
    # four standard errors, and what is left of the limit at n = 80
    assert abs(np.mean(risks) - theory) < 4 * np.std(risks) / np.sqrt(len(risks)) + 0.02 * theory
    # a line of Gaussian rows is further away where scales matter most
    if ridge == 0:
        gaussian = asymptotic_risk(spectrum_of(width), float(noise.mean()), num_train=NUM_TRAIN, ridge=ridge).excess
        assert abs(np.mean(risks) - gaussian) > 2 * abs(np.mean(risks) - theory)


@pytest.mark.parametrize(("width", "ridge"), [(30, 0.0), (160, 0.0), (80, 0.05)])
def test_rows_of_zeros_have_no_part_in_a_fit(width: int, ridge: float) -> None:
    scales, noise = np.array([0.0, 0.9, 1.2, 1.9]), np.array([0.5, 0.4, 0.4, 1.5])
    risks = simulated(width, ridge, scales, noise)
    theory = elliptical_risk(spectrum_of(width), scales, noise, num_train=NUM_TRAIN, ridge=ridge).excess
    # n = 80 varies by 4 rows
    assert abs(np.mean(risks) - theory) < 4 * np.std(risks) / np.sqrt(len(risks)) + 0.04 * theory


def test_rows_of_zeros_have_a_scale_of_zero() -> None:
    rng, width = np.random.default_rng(0), 20
    leverages = np.sum(rng.standard_normal((4000, width)) ** 2, axis=1) * (np.arange(4000) % 4 > 0)
    found = row_scales(leverages, width)
    np.testing.assert_array_equal(found == 0, leverages == 0)
    assert found[found > 0].std() < 0.1
    assert found.mean() == pytest.approx(1)


def test_scales_are_found_behind_leverages_of_few_features() -> None:
    rng, width = np.random.default_rng(0), 20
    leverages = np.sum(rng.standard_normal((4000, width)) ** 2, axis=1)
    assert row_scales(leverages, width).std() < 0.1
    true = rng.choice([0.5, 1.5], size=4000)
    found = row_scales(leverages * true, width)
    assert found.std() == pytest.approx(true.std(), rel=0.05)
    assert found.mean() == pytest.approx(1)


def test_what_is_no_scale_is_refused() -> None:
    with pytest.raises(InputError, match="leverages"):
        row_scales(np.zeros(3), 2)
    for scales in ([1.0, -1.0], [0.0, 0.0]):
        with pytest.raises(InputError, match="scales must be 0 or more"):
            elliptical_risk(spectrum_of(3), np.array(scales), np.ones(2), num_train=5, ridge=0.0)
