"""Leave-one-out error where rows determine directions alone, against heads that are fitted without each row."""

import numpy as np
import pytest
from jaxtyping import Float64
from numpy import ndarray

from lab.core.heads.fitted_risk import fitted_risk
from lab.core.heads.population import DensePopulation

# Letters: n rows, d features, m outputs.

RNG = np.random.default_rng(4)
FEATURES = RNG.standard_normal((20, 45))
TARGETS = FEATURES[:, :2] + RNG.standard_normal((20, 2))


def one_by_one(features: Float64[ndarray, "n d"], targets: Float64[ndarray, "n m"], strength: float) -> float:
    errors = []
    for left in range(len(features)):
        kept = np.arange(len(features)) != left
        singular = np.linalg.svd(features[kept], full_matrices=False)
        rank = int(np.sum(singular.S / singular.S[0] > 1e-12))
        gain = singular.S[:rank] / (singular.S[:rank] ** 2 + len(features) * strength)
        head = singular.Vh[:rank].T @ (gain[:, None] * (singular.U[:, :rank].T @ targets[kept]))
        errors.append(np.sum((targets[left] - features[left] @ head) ** 2))
    return float(np.mean(errors))


def rows(kind: str) -> Float64[ndarray, "n d"]:
    features = FEATURES.copy()
    if kind == "copies":
        features[1:4] = features[0]
    elif kind == "zeros":
        features[5] = 0.0
    elif kind == "sparse":
        features *= np.random.default_rng(6).random(features.shape) < 0.08
    else:
        # a row that is alone in a column
        features[:, 3] = 0.0
        features[7, 3] = 2.0
    return features


@pytest.mark.parametrize("kind", ["copies", "zeros", "sparse", "alone"])
def test_rows_that_are_alone_with_a_direction_are_left_out_like_others(kind: str) -> None:
    features, widths, ridge = rows(kind), [4, 12, 18, 19, 20, 21, 30, 45], [0.0, 1e-13, 1e-6, 0.1]
    population = DensePopulation(np.eye(45), np.zeros((45, 2)), 1.0)
    found = fitted_risk(features, TARGETS, population, widths, ridge=ridge).leave_one_out
    for row, width in enumerate(widths):
        for column, strength in enumerate(ridge):
            expected = one_by_one(features[:, :width], TARGETS, strength)
            assert found[row, column] == pytest.approx(expected, rel=1e-4), (width, strength)
