"""Risk and theory where features have little noise of their own, against arithmetic with 50 digits."""

from itertools import product
from typing import NamedTuple

import numpy as np
import pytest
from jaxtyping import Float64
from numpy import ndarray

from drawn import one_in
from lab.core.heads.asymptotics import asymptotic_risk
from lab.core.heads.conditional_risk import conditional_risk
from lab.core.heads.factor_population import FactorPopulation
from lab.core.heads.risk_by_width import nested_risk
from reference import high_precision


class Law(NamedTuple):
    population: FactorPopulation
    features: Float64[ndarray, "n d"]


def law(noise: float, *, num_rows: int, state_dim: int, num_features: int, is_label: bool = False) -> Law:
    """A state with slow modes; the target is the next state, or a function of the state without noise."""
    rng = np.random.default_rng(0)
    turn, _ = np.linalg.qr(rng.standard_normal((state_dim, state_dim)))
    transition = (turn * np.linspace(0.9, 0.1, state_dim)) @ turn.T
    loading = rng.standard_normal((num_features, state_dim))
    residual = np.zeros(state_dim) if is_label else np.diag(np.eye(state_dim) - transition @ transition.T)
    population = FactorPopulation(
        loading=loading,
        latent_covariance=np.eye(state_dim),
        noise_variance=noise**2,
        cross=transition.T,
        target_variances=np.ones(state_dim),
        residual_variances=residual,
    )
    states = rng.standard_normal((num_rows, state_dim))
    return Law(population, states @ loading.T + noise * rng.standard_normal((num_rows, num_features)))


def check(given: Law, width: int, ridge: float) -> None:
    """All routes to the risk of a head agree with 50 digits to 1e-8, or to what float64 keeps of the features."""
    population, features = given
    num_train = features.shape[0]
    known = high_precision.moments(population, width)
    right = high_precision.risk(features[:, :width], known, ridge)
    nested = nested_risk(features, population, [width], ridge=[ridge], rtol=None)
    at = population.at(width)
    plain = conditional_risk(
        features[:, :width],
        at.covariance,
        at.covariance.factor @ at.latent_coefficients,
        noise_trace=population.noise_trace(width),
        ridge=ridge,
        rtol=1e-15,
    )
    bias, variance, noise_trace = (float(number) for number in right)
    # rounding of the largest singular value, seen from the smallest
    lost = np.finfo(float).eps * float(np.linalg.cond(features[:, :width])) if ridge == 0 else 0.0
    tolerance = max(1e-8, 2 * lost)
    assert population.noise_trace(width) == pytest.approx(noise_trace, rel=1e-12)
    for found_bias, found_variance in ((nested.bias[0, 0], nested.variance[0, 0]), (plain.bias, plain.variance)):
        assert found_variance == pytest.approx(variance, rel=tolerance, abs=0)
        if ridge == 0 and width <= num_train:
            assert found_bias < tolerance * variance
        else:
            assert found_bias == pytest.approx(bias, rel=tolerance, abs=0)
    if ridge or width != num_train:
        theory = asymptotic_risk(
            population.spectrum(width), population.noise_trace(width), num_train=num_train, ridge=ridge
        )
        expected = high_precision.asymptotic(known, num_train, ridge)
        assert theory.variance == pytest.approx(float(expected.variance), rel=1e-11, abs=0)
        assert theory.bias == pytest.approx(float(expected.bias), rel=1e-11, abs=0)


@pytest.mark.filterwarnings("ignore:a singular value")
@pytest.mark.parametrize("width", [2, 3, 6, 7, 9])
@pytest.mark.parametrize("noise", [1e-2, 1e-6])
def test_little_noise_costs_no_digits(noise: float, width: int) -> None:
    check(law(noise, num_rows=6, state_dim=3, num_features=9), width, 0.0)


@pytest.mark.filterwarnings("ignore:a singular value")
@pytest.mark.parametrize(("width", "ridge"), [(4, 1e-9), (8, 1e-2)])
def test_little_noise_costs_no_digits_with_a_ridge(width: int, ridge: float) -> None:
    check(law(1e-5, num_rows=6, state_dim=3, num_features=9), width, ridge)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:a singular value")
@pytest.mark.parametrize(
    ("noise", "width", "ridge"),
    one_in(6, list(product((1e-2, 1e-3, 1e-4, 1e-5, 1e-6), (5, 10, 15, 20, 21, 30), (0.0, 1e-3))), of="small noise"),
)
def test_little_noise_costs_no_digits_beside_ten_states(noise: float, width: int, ridge: float) -> None:
    check(law(noise, num_rows=20, state_dim=10, num_features=30), width, ridge)


@pytest.mark.parametrize("width", [3, 5])
def test_what_little_noise_leaves_of_a_label_without_noise_is_a_variance_of_its_size(width: int) -> None:
    population, _ = law(1e-6, num_rows=6, state_dim=3, num_features=6, is_label=True)
    right = high_precision.moments(population, width).noise_trace
    assert 0 < float(right) < 1e-10
    assert population.noise_trace(width) == pytest.approx(float(right), rel=1e-11, abs=0)
