"""The line of measured rows against other lines where these are right, and against simulation where they are not."""

from collections.abc import Callable
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import Float64
from numpy import ndarray

from lab.core.errors import InputError
from lab.core.heads.asymptotics import asymptotic_risk, finite_factor
from lab.core.heads.elliptical import elliptical_risk
from lab.core.heads.empirical import empirical_risk
from lab.core.heads.population import Spectrum

Rows = tuple[Float64[ndarray, "N p"], Float64[ndarray, "N m"]]
SIZE, WIDTH, OUTPUTS = 8000, 40, 2
VALUES = 1 / np.arange(1, WIDTH + 1)
COEFFICIENTS = np.random.default_rng(1).standard_normal((WIDTH, OUTPUTS)) / 3


def labelled(features: Float64[ndarray, "N p"], rng: np.random.Generator) -> Rows:
    """Targets of the linear model with noise of variance 1."""
    return features, features @ COEFFICIENTS + rng.standard_normal((len(features), OUTPUTS))


def gaussian(rng: np.random.Generator) -> Float64[ndarray, "N p"]:
    return rng.standard_normal((SIZE, WIDTH)) * np.sqrt(VALUES)


def copied(rng: np.random.Generator) -> Rows:
    """Rows around one of 400 means, some of which are far more frequent."""
    shares = 1 / np.arange(1, 401)
    mine = rng.choice(400, SIZE, p=shares / shares.sum())
    return labelled(gaussian(rng)[mine] + 0.3 * gaussian(rng), rng)


def measured(rows: Rows, num_train: int, ridge: float, draws: int = 200) -> tuple[float, float]:
    """Mean risk over draws, and its standard error."""
    features, targets = rows
    rng, risks = np.random.default_rng(7), []
    for _ in range(draws):
        chosen = rng.choice(SIZE, num_train, replace=False)
        x, y = features[chosen], targets[chosen]
        head = np.linalg.lstsq(np.vstack([x, np.sqrt(num_train * ridge) * np.eye(x.shape[1])]), pad(y, x.shape[1]))[0]
        risks.append(float(np.mean(np.sum((targets - features @ head) ** 2, axis=1))))
    return float(np.mean(risks)), float(np.std(risks)) / draws**0.5


def pad(targets: Float64[ndarray, "n m"], size: int) -> Float64[ndarray, "k m"]:
    return np.vstack([targets, np.zeros((size, targets.shape[1]))])


SPECTRUM = Spectrum(VALUES, np.sum(COEFFICIENTS**2, axis=1))


@pytest.mark.parametrize(("num_train", "ridge"), [(20, 0.0), (100, 0.0), (60, 0.0), (30, 0.05), (100, 0.3)])
def test_gaussian_rows(num_train: int, ridge: float) -> None:
    """Those of this n, not only of the limit: the set has the leverages of as many directions."""
    rows = labelled(gaussian(np.random.default_rng(0)), np.random.default_rng(2))
    found = empirical_risk(*rows, num_train=num_train, ridge=ridge).total
    limit = asymptotic_risk(SPECTRUM, OUTPUTS, num_train=num_train, ridge=ridge)
    factor = finite_factor(SPECTRUM, num_train=num_train) if ridge == 0 else 1.0
    assert found == pytest.approx(limit.total + (factor - 1) * limit.variance, rel=0.03)


@pytest.mark.parametrize(("num_train", "ridge"), [(20, 0.0), (100, 0.0), (60, 0.1)])
def test_rows_of_zeros_have_no_part_in_a_fit(num_train: int, ridge: float) -> None:
    rng = np.random.default_rng(0)
    present = np.arange(SIZE) % 4 > 0
    rows = labelled(gaussian(rng) * present[:, None], rng)
    scales = present / present.mean()
    variances = Spectrum(SPECTRUM.eigenvalues * present.mean(), SPECTRUM.squared_coefficients)
    known = elliptical_risk(variances, scales, np.full(SIZE, OUTPUTS), num_train=num_train, ridge=ridge)
    assert empirical_risk(*rows, num_train=num_train, ridge=ridge).total == pytest.approx(known.total, rel=0.05)


@pytest.mark.parametrize(("num_train", "ridge"), [(20, 0.0), (100, 0.0), (60, 0.1)])
def test_rows_of_varying_scale(num_train: int, ridge: float) -> None:
    rng = np.random.default_rng(0)
    scales = rng.gamma(2.0, 0.5, SIZE)
    rows = labelled(gaussian(rng) * np.sqrt(scales)[:, None], rng)
    known = elliptical_risk(SPECTRUM, scales / scales.mean(), np.full(SIZE, OUTPUTS), num_train=num_train, ridge=ridge)
    assert empirical_risk(*rows, num_train=num_train, ridge=ridge).total == pytest.approx(known.total, rel=0.05)


@pytest.mark.parametrize(
    ("num_train", "ridge", "off"),
    [
        pytest.param(20, 0.0, 0.25, id="beyond p = n, where copies are few"),
        pytest.param(80, 0.0, 0.08, id="below p = n"),
        pytest.param(20, 0.1, 0.02, id="with ridge"),
    ],
)
def test_rows_that_are_near_copies(num_train: int, ridge: float, off: float) -> None:
    """Measured by simulation, where the Gaussian line is up to three times as far off."""
    rows = copied(np.random.default_rng(0))
    mean, error = measured(rows, num_train, ridge)
    features, targets = rows
    covariance = features.T @ features / SIZE
    values, vectors = np.linalg.eigh(covariance)
    best = np.linalg.solve(covariance, features.T @ targets / SIZE)
    spectrum = Spectrum(values, np.sum((vectors.T @ best) ** 2, axis=1))
    noise = float(np.mean(np.sum((targets - features @ best) ** 2, axis=1)))
    by_moments = asymptotic_risk(spectrum, noise, num_train=num_train, ridge=ridge).total
    found = empirical_risk(*rows, num_train=num_train, ridge=ridge).total
    assert abs(found / mean - 1) < off + 2 * error / mean
    assert abs(found - mean) < abs(by_moments - mean) + 2 * error


def moved(change: Callable[[Float64[ndarray, "N p"]], Float64[ndarray, "N p"]], ridge: float) -> float:
    features, targets = copied(np.random.default_rng(3))
    return empirical_risk(change(features[:1000]), targets[:1000], num_train=25, ridge=ridge).total


@given(seed=st.integers(0, 100), scale=st.floats(0.01, 100.0))
@settings(max_examples=4, deadline=None)
def test_the_basis_and_the_unit_do_not_matter(seed: int, scale: float) -> None:
    turn = np.linalg.qr(np.random.default_rng(seed).standard_normal((WIDTH, WIDTH)))[0]
    known = moved(lambda x: x, 0.0)
    assert moved(lambda x: scale * x @ turn, 0.0) == pytest.approx(known, rel=1e-3)
    assert moved(lambda x: np.hstack([x @ turn, np.zeros((len(x), 3))]), 0.0) == pytest.approx(known, rel=1e-3)
    assert moved(lambda x: scale * x, 0.1 * scale**2) == pytest.approx(moved(lambda x: x, 0.1), rel=1e-3)


def test_no_noise_is_no_risk_below_p_n() -> None:
    features = gaussian(np.random.default_rng(0))
    assert empirical_risk(features, features @ COEFFICIENTS, num_train=60, ridge=0.0).total == pytest.approx(
        0, abs=1e-12
    )


def test_what_has_no_line_is_refused() -> None:
    features, targets = labelled(gaussian(np.random.default_rng(0)), np.random.default_rng(2))
    with pytest.raises(InputError, match="num_train=40 is the number of directions"):
        empirical_risk(features, targets, num_train=WIDTH, ridge=0.0)
    with pytest.raises(InputError, match="as many directions"):
        empirical_risk(features[:40], targets[:40], num_train=10, ridge=0.0)
    with pytest.raises(InputError, match="all 0"):
        empirical_risk(0 * features, targets, num_train=10, ridge=0.0)


@pytest.mark.parametrize("scatter", [1e-2, 1e-5, 0.0])
@pytest.mark.parametrize(("width", "num_train"), [(8, 20), (16, 20), (30, 20)])
def test_copies_to_the_last_digits_have_a_line_or_a_reason(scatter: float, width: int, num_train: int) -> None:
    rng = np.random.default_rng(0)
    mine = rng.choice(24, 600, p=1 / np.arange(1, 25) / np.sum(1 / np.arange(1, 25)))
    features = rng.standard_normal((24, WIDTH))[mine] + scatter * rng.standard_normal((600, WIDTH))
    rows = labelled(features, rng)
    with suppress(InputError):
        assert empirical_risk(rows[0][:, :width], rows[1], num_train=num_train, ridge=0.0).total > 0


@pytest.mark.parametrize("offset", [1e3, 1e4, 1e5])
def test_a_mean_that_is_far_larger_than_the_rest_gives_a_line_or_a_reason_without_warnings(offset: float) -> None:
    rng = np.random.default_rng(0)
    features = offset + rng.standard_normal((160, WIDTH))
    targets = features[:, :OUTPUTS] + rng.standard_normal((160, OUTPUTS))
    for width in (2, 10, 19, 21, 30, WIDTH):
        with suppress(InputError):
            assert empirical_risk(features[:, :width], targets, num_train=20, ridge=0.0).total > 0
