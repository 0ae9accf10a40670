"""Rows in clusters: against the lines for independent rows, and against simulated heads."""

import numpy as np
import pytest
from jaxtyping import Float64
from numpy import ndarray

from lab.core.errors import InputError
from lab.core.heads.clustered import Clusters, clustered_risk
from lab.core.heads.elliptical import elliptical_risk
from lab.core.heads.linear_head import LinearHead
from lab.core.heads.population import DensePopulation, Spectrum

# Letters: p width, n rows, m outputs.

NUM_TRAIN, WIDTH, NOISE = 100, 160, 0.5
BETWEEN, WITHIN = np.geomspace(3, 0.3, WIDTH), np.geomspace(0.05, 0.5, WIDTH)
BEST = np.linspace(1, 3, WIDTH)[:, None] / WIDTH
# the rows of a draw: clusters of 1, 2 and 7 rows, whose scales vary
SIZES = [7] * 5 + [2] * 20 + [1] * 25
SCALES = np.tile([0.2, 1.8], NUM_TRAIN // 2)


def moments(share: float = 1.0) -> tuple[DensePopulation, DensePopulation]:
    """Of all rows, and of pairs of a cluster."""
    both = BETWEEN + WITHIN
    population = DensePopulation(np.diag(both), both[:, None] * BEST, float(both @ BEST[:, 0] ** 2) + NOISE)
    between = BETWEEN * share
    return population, DensePopulation(np.diag(between), between[:, None] * BEST, float(between @ BEST[:, 0] ** 2))


def clusters_of(sizes: list[int], scale: Float64[ndarray, " n"], share: float) -> Clusters:
    number = np.repeat(np.arange(len(sizes)), sizes)
    return Clusters(moments()[1], number, scale, np.full(len(sizes), share), np.ones(len(sizes) + 1))


@pytest.mark.parametrize(("width", "ridge"), [(40, 0.0), (150, 0.0), (60, 0.1), (160, 1.0)])
def test_clusters_of_one_row_are_independent_rows(width: int, ridge: float) -> None:
    population, _ = moments()
    ours = clustered_risk(population, clusters_of([1] * NUM_TRAIN, np.ones(NUM_TRAIN), 0.0), width, ridge=ridge)
    spectrum = Spectrum((BETWEEN + WITHIN)[:width], BEST[:width, 0] ** 2)
    rest = population.noise_trace(width)
    theirs = elliptical_risk(spectrum, np.ones(3), np.full(3, rest), num_train=NUM_TRAIN, ridge=ridge)
    assert ours.total == pytest.approx(theirs.total, rel=1e-3)


def simulated(width: int, ridge: float, share: float) -> list[float]:
    """Mean squared error on fresh rows, a share of each cluster of the draw and the rest of other clusters."""
    number, risks = np.repeat(np.arange(len(SIZES)), SIZES), []
    for draw in range(40):
        rng = np.random.default_rng(draw)
        means = rng.standard_normal((len(SIZES), WIDTH)) * np.sqrt(BETWEEN)
        spread = rng.standard_normal((NUM_TRAIN, WIDTH)) * np.sqrt(WITHIN)
        features = means[number] + np.sqrt(SCALES)[:, None] * spread
        targets = features @ BEST + np.sqrt(NOISE) * rng.standard_normal((NUM_TRAIN, 1))
        head = LinearHead.fit(features[:, :width], targets, ridge=ridge, rtol=1e-12)
        error = np.zeros((WIDTH, 1))
        error[:width] = head.weight
        error -= BEST
        within = float(WITHIN @ error[:, 0] ** 2) + NOISE
        seen = float(np.sum((means @ error) ** 2)) * share
        risks.append(within + seen + (1 - share * len(SIZES)) * float(BETWEEN @ error[:, 0] ** 2))
    return risks


@pytest.mark.parametrize(
    ("width", "ridge", "share"), [(40, 0.0, 0.0), (40, 0.0, 0.02), (160, 0.0, 0.02), (160, 0.05, 0.02), (160, 0.5, 0.0)]
)
def test_heads_on_simulated_clusters_have_this_risk(width: int, ridge: float, share: float) -> None:
    risks = simulated(width, ridge, share)
    theory = clustered_risk(moments()[0], clusters_of(SIZES, SCALES, share), width, ridge=ridge).total
    # four standard errors, and what is left of the limit at n = 100
    assert abs(np.mean(risks) - theory) < 4 * np.std(risks) / np.sqrt(len(risks)) + 0.03 * theory


def test_the_threshold_without_ridge_is_refused() -> None:
    with pytest.raises(InputError, match="width=50 is the number of rows"):
        clustered_risk(moments()[0], clusters_of([1] * 50, np.ones(50), 0.0), 50, ridge=0.0)
