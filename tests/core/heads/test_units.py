"""Features in another unit: the same risk, and a message where their squares are no numbers."""

import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy import ndarray

from lab.core.errors import InputError
from lab.core.heads.conditional_risk import conditional_risk
from lab.core.heads.linear_head import LinearHead
from lab.core.heads.population import DensePopulation
from lab.core.heads.risk_by_width import nested_risk

FEATURES = np.random.default_rng(0).standard_normal((4, 12))
WIDTHS = (2, 4, 8, 12)


def population(unit: float) -> DensePopulation:
    return DensePopulation(np.eye(12) * unit * unit, np.ones((12, 1)) * unit, 20.0)


@settings(max_examples=20)
@given(exponent=st.floats(-150, 150), ridge=st.sampled_from([0.0, 0.1]))
def test_risk_does_not_depend_on_the_unit_of_the_features(exponent: float, ridge: float) -> None:
    unit = 10.0**exponent
    expected = nested_risk(FEATURES, population(1.0), WIDTHS, ridge=[ridge], rtol=None)
    found = nested_risk(FEATURES * unit, population(unit), WIDTHS, ridge=[ridge * unit * unit], rtol=None)
    np.testing.assert_allclose(found.variance, expected.variance, rtol=1e-11)
    np.testing.assert_allclose(found.bias, expected.bias, rtol=1e-11, atol=1e-28)
    np.testing.assert_allclose(found.squared_weight_norm * unit * unit, expected.squared_weight_norm, rtol=1e-11)
    plain = conditional_risk(
        FEATURES * unit,
        np.eye(12) * unit * unit,
        np.ones((12, 1)) / unit,
        noise_trace=8.0,
        ridge=ridge * unit * unit,
        rtol=1e-13,
    )
    assert plain.bias == pytest.approx(expected.bias[-1, 0], rel=1e-11)
    assert plain.variance == pytest.approx(expected.variance[-1, 0], rel=1e-11)


def test_the_variance_is_that_of_the_pseudo_inverse() -> None:
    found = nested_risk(FEATURES * 1e-100, population(1e-100), WIDTHS, rtol=None)
    for w, width in enumerate(WIDTHS):
        expected = (20 - width) * np.sum(np.linalg.pinv(FEATURES[:, :width]) ** 2)
        assert found.variance[w, 0] == pytest.approx(expected, rel=1e-11)


@pytest.mark.parametrize("unit", [1e-160, 1e155, 1e300])
def test_a_unit_whose_square_is_no_number_is_named(unit: float) -> None:
    with pytest.raises(InputError, match=r"features contain \S+, whose square float64 cannot hold"):
        nested_risk(FEATURES * unit, population(1.0), WIDTHS, rtol=None)


@settings(max_examples=20)
@given(exponent=st.floats(-300, 300))
def test_weights_of_a_head_scale_with_the_inverse_unit(exponent: float) -> None:
    targets, unit = np.ones((4, 2)), 10.0**exponent
    expected = LinearHead.fit(FEATURES, targets, ridge=0.0, rtol=1e-14)
    found = LinearHead.fit(FEATURES * unit, targets, ridge=0.0, rtol=1e-14)
    np.testing.assert_allclose(found.weight * unit, expected.weight, rtol=1e-11, atol=1e-14)
    assert found.weight_norm * unit == pytest.approx(expected.weight_norm, rel=1e-12)


def test_weights_beyond_float64_are_named() -> None:
    with pytest.raises(InputError, match="the weights are beyond the numbers of float64"):
        LinearHead.fit(FEATURES * 1e-300, np.full((4, 1), 1e20), ridge=0.0, rtol=1e-14)


@pytest.mark.wrong_shapes
def test_tensors_are_fitted_or_named() -> None:
    features, targets = torch.from_numpy(FEATURES), torch.ones(4, 2, dtype=torch.float64)
    expected = LinearHead.fit(FEATURES, np.ones((4, 2)), ridge=0.0, rtol=1e-14)
    np.testing.assert_array_equal(LinearHead.fit(features, targets, ridge=0.0, rtol=1e-14).weight, expected.weight)  # type: ignore[arg-type]
    for tensor in (features.clone().requires_grad_(), features.bfloat16()):
        with pytest.raises(InputError, match=re.escape("tensor.detach().cpu().double().numpy()")):
            LinearHead.fit(tensor, targets, ridge=0.0, rtol=1e-14)  # type: ignore[arg-type]


ROOT = np.random.default_rng(1).standard_normal((12, 3))
LATENT = np.random.default_rng(2).standard_normal((6, 3))


@pytest.mark.parametrize("ridge", [0.0, 0.1])
def test_a_covariance_of_low_rank_is_that_of_its_factors(ridge: float) -> None:
    # twelve features of three numbers: the same heads as on the three, in other coordinates
    found = nested_risk(
        LATENT @ ROOT.T,
        DensePopulation(ROOT @ ROOT.T, ROOT @ np.ones((3, 1)), 20.0),
        [2, 3, 6, 12],
        ridge=[ridge],
        rtol=None,
    )
    for w, width in enumerate((2, 3, 6, 12)):
        inverse = np.linalg.pinv(LATENT @ ROOT[:width].T)
        if ridge:
            features = LATENT @ ROOT[:width].T
            inverse = features.T @ np.linalg.inv(features @ features.T + 6 * ridge * np.eye(6))
        sigma = ROOT[:width] @ ROOT[:width].T
        best = np.linalg.pinv(sigma, rcond=1e-12) @ ROOT[:width] @ np.ones((3, 1))
        noise = 20 - float(np.sum(best * (sigma @ best)))
        error = inverse @ (LATENT @ ROOT[:width].T @ best) - best
        assert found.rank[w] == min(width, 3)
        assert found.variance[w, 0] == pytest.approx(noise * np.trace(sigma @ inverse @ inverse.T), rel=1e-9)
        assert found.bias[w, 0] == pytest.approx(float(np.sum(error * (sigma @ error))), rel=1e-9, abs=1e-24)


@pytest.mark.parametrize(
    ("covariance", "cross", "message"),
    [
        (ROOT @ ROOT.T, np.ones((12, 1)), r"covariance has rank 3 in its first 12 features, but cross is not in its"),
        (ROOT @ ROOT.T - np.eye(12), np.ones((12, 1)), "covariance has the eigenvalue -1 but must be positive"),
        (np.triu(np.ones((12, 12))), np.ones((12, 1)), "covariance differs from its transpose by 1"),
        (np.eye(12), np.ones((11, 1)), r"cross has shape \(11, 1\)"),
        (np.zeros((12, 12)), np.zeros((12, 1)), "covariance is zero in its first 12 features"),
    ],
)
def test_second_moments_of_no_rows_are_named(covariance: ndarray, cross: ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        DensePopulation(covariance, cross, 20.0).coefficients(12)
