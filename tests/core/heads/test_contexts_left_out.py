"""Contexts left out where one of them determines a direction, and where columns depend on each other."""

import numpy as np
import pytest
from jaxtyping import Float64
from numpy import ndarray

from lab.core.heads.fitted_risk import fitted_risk
from lab.core.heads.population import DensePopulation
from reference.generalized_cross_validation import growth

# Letters: n rows, d features, m outputs, w widths.

SIZE = 4


def estimated(
    features: Float64[ndarray, "n d"], targets: Float64[ndarray, "n m"], widths: list[int], ridge: float
) -> Float64[ndarray, " w"]:
    rows = features.shape[0]
    moments = features.T @ features / rows, features.T @ targets / rows, float(np.sum(targets**2) / rows)
    found = fitted_risk(features, targets, DensePopulation(*moments), widths, ridge=[ridge], rows_per_context=SIZE)
    return found.leave_one_context_out[:, 0]


def refitted(features: Float64[ndarray, "n d"], targets: Float64[ndarray, "n m"], ridge: float) -> float:
    """Of each context under the head that was fitted to the others: of least norm without ridge."""
    rows, width = features.shape
    total = 0.0
    for start in range(0, rows, SIZE):
        out = np.isin(np.arange(rows), np.arange(start, start + SIZE))
        kept, answers = features[~out], targets[~out]
        if ridge > 0:
            head = np.linalg.solve(kept.T @ kept + rows * ridge * np.eye(width), kept.T @ answers)
        else:
            head = np.linalg.pinv(kept, rcond=1e-10) @ answers
        total += float(np.sum((targets[out] - features[out] @ head) ** 2))
    # without ridge, carried from the rows of all other contexts to all rows
    return total / rows * (growth(features, targets, SIZE) if ridge == 0 else 1.0)


def test_a_column_that_one_context_has_alone_leaves_no_number_without_ridge() -> None:
    rng = np.random.default_rng(0)
    features, targets = rng.standard_normal((40, 12)), rng.standard_normal((40, 2))
    features[:, 8] = 0.0
    features[8:12, 8] = rng.standard_normal(SIZE)
    plain = estimated(features, targets, [4, 8, 9, 12], 0.0)
    for place, width in enumerate((4, 8)):
        assert plain[place] == pytest.approx(refitted(features[:, :width], targets, 0.0), rel=1e-8)
    # without this context the head of least norm ignores the column, which the fit to all rows cannot tell
    assert np.isnan(plain[2:]).all()
    ridged = estimated(features, targets, [8, 9, 12], 0.1)
    for place, width in enumerate((8, 9, 12)):
        assert ridged[place] == pytest.approx(refitted(features[:, :width], targets, 0.1), rel=1e-8)


@pytest.mark.parametrize(("rank", "widths"), [(38, [39, 40, 42]), (30, [31, 36, 42, 60])])
def test_dependent_columns_have_a_number_up_to_the_rank_that_the_other_contexts_reach(
    rank: int, widths: list[int]
) -> None:
    rng = np.random.default_rng(1)
    features = rng.standard_normal((40, rank)) @ rng.standard_normal((rank, max(widths)))
    targets = rng.standard_normal((40, 2))
    plain, ridged = estimated(features, targets, widths, 0.0), estimated(features, targets, widths, 0.1)
    for place, width in enumerate(widths):
        if rank > 40 - SIZE:
            assert np.isnan(plain[place])
        else:
            assert plain[place] == pytest.approx(refitted(features[:, :width], targets, 0.0), rel=1e-6)
        assert ridged[place] == pytest.approx(refitted(features[:, :width], targets, 0.1), rel=1e-6)


def test_more_columns_than_rows_have_the_number_of_minimum_norm_heads() -> None:
    rng = np.random.default_rng(2)
    features, targets = rng.standard_normal((40, 70)) * np.geomspace(1, 1e-3, 70), rng.standard_normal((40, 2))
    plain = estimated(features, targets, [36, 50, 70], 0.0)
    # n - T columns: the other contexts fit themselves exactly
    assert np.isnan(plain[0])
    for place, width in ((1, 50), (2, 70)):
        assert plain[place] == pytest.approx(refitted(features[:, :width], targets, 0.0), rel=1e-5)


def shared_by_contexts(seed: int) -> tuple[Float64[ndarray, "n d"], Float64[ndarray, "n m"]]:
    """200 rows in contexts of 20 that share features and noise."""
    rng = np.random.default_rng(seed)

    def drawn(columns: int, share: float) -> Float64[ndarray, "n k"]:
        common = np.repeat(rng.standard_normal((10, columns)), 20, axis=0)
        return np.sqrt(share) * common + np.sqrt(1 - share) * rng.standard_normal((200, columns))

    return drawn(300, 0.3), drawn(4, 0.3)


@pytest.mark.slow
@pytest.mark.parametrize("width", [50, 100, 150, 170, 230, 300])
def test_without_ridge_contexts_of_20_rows_are_within_a_tenth_of_the_risk(width: int) -> None:
    known = DensePopulation(np.eye(300), np.zeros((300, 4)), 4.0)
    risks, left, plain = [], [], []
    for seed in range(60):
        features, noise = shared_by_contexts(seed)
        found = fitted_risk(features, noise, known, [width], ridge=[0.0], rows_per_context=20)
        risks.append(found.risk[0, 0])
        left.append(found.leave_one_context_out[0, 0])
        plain.append(found.gcv[0, 0])
    assert np.mean(left) == pytest.approx(np.mean(risks), rel=0.1)
    assert np.mean(plain) < 0.9 * np.mean(risks)
