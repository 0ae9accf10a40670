"""The fast route to the risk of all widths agrees with the plain formula at each of them."""

import numpy as np
import pytest
from jaxtyping import Float64
from numpy import ndarray

from lab.core.errors import InputError
from lab.core.heads.conditional_risk import conditional_risk
from lab.core.heads.decompositions import default_rank_tolerance
from lab.core.heads.factor_population import FactorPopulation
from lab.core.heads.population import DensePopulation, DiagonalPopulation, ModePopulation, Population
from lab.core.heads.risk_by_width import nested_risk

NUM_ROWS, NUM_FEATURES = 40, 150
WIDTHS = (1, 3, 17, 35, 39, 40, 41, 44, 63, 64, 65, 100, 128, 150)


def populations() -> dict[str, Population]:
    rng = np.random.default_rng(0)
    loading = rng.standard_normal((NUM_FEATURES, 6))
    root = rng.standard_normal((6, 6))
    latent = root @ root.T + np.eye(6)
    full_root = rng.standard_normal((NUM_FEATURES, NUM_FEATURES))
    decay = np.linspace(1, 0.1, NUM_FEATURES)
    return {
        "factors": FactorPopulation(loading, latent, 0.3, 0.2 * latent @ rng.standard_normal((6, 4)), np.full(4, 9.0)),
        "tokens": FactorPopulation(
            loading, latent, 0.3, 0.5 * latent @ loading.T, np.sum((loading @ latent) * loading, axis=1) + 0.3, True
        ),
        "diagonal": DiagonalPopulation(decay, rng.standard_normal((NUM_FEATURES, 3)), 1000.0),
        "isotropic": DiagonalPopulation(np.full(NUM_FEATURES, 2.0), rng.standard_normal((NUM_FEATURES, 1)), 1000.0),
        "even modes": ModePopulation(
            np.full(NUM_FEATURES, 1.5), np.full(NUM_FEATURES, 0.4), np.full(NUM_FEATURES, 1.0)
        ),
        "modes": ModePopulation(np.full(NUM_FEATURES, 1.5), decay**2, np.full(NUM_FEATURES, 2.0)),
        "uneven modes": ModePopulation(1 + decay, decay**2, np.full(NUM_FEATURES, 2.5)),
        "dense": DensePopulation(
            full_root @ full_root.T / NUM_FEATURES + np.eye(NUM_FEATURES),
            rng.standard_normal((NUM_FEATURES, 2)),
            1000.0,
        ),
    }


def draw(population: Population, num_rows: int = NUM_ROWS) -> Float64[ndarray, "n d"]:
    covariance, _ = population.dense(NUM_FEATURES)
    normals = np.random.default_rng(1).standard_normal((num_rows, NUM_FEATURES))
    return normals @ np.linalg.cholesky(covariance).T


TOLERANCE = default_rank_tolerance(NUM_ROWS, NUM_FEATURES)


@pytest.mark.parametrize("name", populations())
@pytest.mark.parametrize("order", ["C", "F"])
def test_all_widths_agree_with_the_plain_formula(name: str, order: str) -> None:
    population = populations()[name]
    features = np.array(draw(population), order=order)
    features.setflags(write=False)
    ridge = (0.0, 1e-9, 0.01, 3.0)
    found = nested_risk(features, population, WIDTHS, ridge=ridge, rtol=TOLERANCE)
    for w, width in enumerate(WIDTHS):
        covariance, coefficients = population.dense(width)
        for r, strength in enumerate(ridge):
            plain = conditional_risk(
                features[:, :width],
                covariance,
                coefficients,
                noise_trace=population.noise_trace(width),
                ridge=strength,
                rtol=TOLERANCE,
            )
            # the bias of narrow minimum-norm heads is zero: what rounding leaves of it is compared with the signal
            scale = 1e-13 * population.signal(width)
            np.testing.assert_allclose(found.bias[w, r], plain.bias, rtol=1e-9, atol=scale)
            np.testing.assert_allclose(found.variance[w, r], plain.variance, rtol=1e-9)
            np.testing.assert_allclose(found.squared_weight_norm[w, r], plain.squared_weight_norm, rtol=1e-9)
            assert found.rank[w] == plain.rank
    assert set(found.method) <= {"qr", "cholesky", "svd"}
    assert found.method.count("svd") <= 2


@pytest.mark.parametrize("name", populations())
def test_other_widths_in_the_grid_change_nothing(name: str) -> None:
    population = populations()[name]
    features = draw(population)
    whole = nested_risk(features, population, WIDTHS, rtol=TOLERANCE)
    few = nested_risk(features, population, (3, 40, 65, 100), rtol=TOLERANCE)
    at = [WIDTHS.index(width) for width in (3, 40, 65, 100)]
    np.testing.assert_array_equal(few.bias, whole.bias[at])
    np.testing.assert_array_equal(few.variance, whole.variance[at])


@pytest.mark.parametrize("name", populations())
def test_rank_deficient_features_are_solved_by_svd(name: str) -> None:
    population = populations()[name]
    features = draw(population)
    features[:, 10:30] = features[:, :1] * np.arange(1, 21)
    features[20:] = features[:20]
    found = nested_risk(features, population, (5, 25, 60), rtol=1e-10)
    assert found.method == ("qr", "svd", "svd")
    assert found.rank.tolist() == [5, 10, 20]
    for w, width in enumerate((5, 25, 60)):
        covariance, coefficients = population.dense(width)
        plain = conditional_risk(
            features[:, :width],
            covariance,
            coefficients,
            noise_trace=population.noise_trace(width),
            ridge=0.0,
            rtol=1e-10,
        )
        np.testing.assert_allclose(found.excess[w, 0], plain.excess, rtol=1e-7)


def test_columns_that_dwarf_the_earlier_ones_cost_no_digits() -> None:
    # the inverse Gram matrix shrinks by six orders of magnitude at column 64; updates alone would leave 9 digits
    variances = np.repeat([1.0, 1e6], [64, NUM_FEATURES - 64])
    population = DiagonalPopulation(variances, np.random.default_rng(3).standard_normal((NUM_FEATURES, 2)), 1e9)
    features = draw(population)
    widths = (64, 115, 128, 150)
    found = nested_risk(features, population, widths, rtol=TOLERANCE)
    assert set(found.method) == {"cholesky"}
    for w, width in enumerate(widths):
        sigma, best = population.dense(width)
        noise_trace = population.noise_trace(width)
        plain = conditional_risk(features[:, :width], sigma, best, noise_trace=noise_trace, ridge=0.0, rtol=TOLERANCE)
        np.testing.assert_allclose(found.bias[w, 0], plain.bias, rtol=1e-12)
        np.testing.assert_allclose(found.variance[w, 0], plain.variance, rtol=1e-12)


def test_badly_scaled_columns_give_no_negative_variance() -> None:
    scales = np.logspace(0, -4, NUM_FEATURES)
    population = DiagonalPopulation(scales**2, np.ones((NUM_FEATURES, 1)), 100.0)
    features = np.random.default_rng(2).standard_normal((NUM_ROWS, NUM_FEATURES)) * scales
    found = nested_risk(features, population, WIDTHS, rtol=TOLERANCE)
    for w, width in enumerate(WIDTHS):
        covariance, coefficients = population.dense(width)
        plain = conditional_risk(
            features[:, :width],
            covariance,
            coefficients,
            noise_trace=population.noise_trace(width),
            ridge=0.0,
            rtol=TOLERANCE,
        )
        assert found.variance[w, 0] > 0
        np.testing.assert_allclose(found.excess[w, 0], plain.excess, rtol=1e-8)


@pytest.mark.parametrize(
    ("widths", "ridge", "word"),
    [
        ((), (0.0,), "widths"),
        ((0,), (0.0,), "widths"),
        ((2.5,), (0.0,), "widths=2.5 must be a whole number"),
        ((151,), (0.0,), "150"),
        ((3,), (), "ridge"),
        ((3,), (-1.0,), "-1.0"),
    ],
)
def test_grids_that_mean_nothing_are_refused(widths: tuple[int, ...], ridge: tuple[float, ...], word: str) -> None:
    population = populations()["factors"]
    with pytest.raises(InputError, match=word):
        nested_risk(draw(population), population, widths, ridge=ridge, rtol=TOLERANCE)


@pytest.mark.parametrize("name", populations())
@pytest.mark.parametrize("others", [(), (0.0,), (0.1,)])
def test_an_infinite_ridge_is_the_head_that_predicts_zero(name: str, others: tuple[float, ...]) -> None:
    population, widths = populations()[name], (3, 40, 150)
    features = draw(population)
    found = nested_risk(features, population, widths, ridge=(*others, np.inf), rtol=None)
    np.testing.assert_array_equal(found.bias[:, -1], [population.signal(width) for width in widths])
    assert not found.variance[:, -1].any()
    assert not found.squared_weight_norm[:, -1].any()
    assert found.rank.tolist() == [3, 40, 40]
    # the limit of large strengths
    large = nested_risk(features, population, widths, ridge=(1e12,), rtol=None)
    np.testing.assert_allclose(found.excess[:, -1], large.excess[:, 0], rtol=1e-6)
