"""Every width of a draw at once, against heads that are fitted one by one."""

import numpy as np
import pytest
from jaxtyping import Float64
from numpy import ndarray

from lab.core.errors import InputError
from lab.core.heads.fitted_risk import FittedRisk, fitted_risk
from lab.core.heads.linear_head import LinearHead
from lab.core.heads.population import DensePopulation
from reference.generalized_cross_validation import growth

# Letters: n rows, d features, m outputs.

WIDTHS = [1, 7, 24, 29, 30, 31, 45, 60]
RIDGE = [0.0, 1e-4, 0.3]


def problem(num_train: int = 30) -> tuple[Float64[ndarray, "n d"], Float64[ndarray, "n m"], DensePopulation, int]:
    rng = np.random.default_rng(3)
    pool = rng.standard_normal((400, 60)) * np.geomspace(3, 0.3, 60)
    targets = pool @ rng.standard_normal((60, 4)) / 8 + rng.standard_normal((400, 4))
    moments = pool.T @ pool / 400, pool.T @ targets / 400, float(np.sum(targets**2) / 400)
    return pool, targets, DensePopulation(*moments), num_train


def one_by_one(rows: list[int], width: int, strength: float, out: list[int]) -> float:
    """Mean squared error on rows of the pool of a head that was fitted to other ones."""
    pool, targets, _, num_train = problem()
    scale = num_train / len(rows)
    head = LinearHead.fit(pool[rows][:, :width], targets[rows], ridge=strength * scale, rtol=1e-13)
    errors = head.predict(pool[out][:, :width]) - targets[out]
    return float(np.mean(np.sum(errors**2, axis=1)))


def found(rows_per_context: int = 1) -> FittedRisk:
    pool, targets, population, num_train = problem()
    return fitted_risk(
        pool[:num_train], targets[:num_train], population, WIDTHS, ridge=RIDGE, rows_per_context=rows_per_context
    )


def test_risk_and_training_error_are_those_of_single_heads() -> None:
    ours, rows = found(), list(range(30))
    for row, width in enumerate(WIDTHS):
        for column, strength in enumerate(RIDGE):
            expected = one_by_one(rows, width, strength, list(range(400)))
            assert ours.risk[row, column] == pytest.approx(expected, rel=1e-7)
            assert ours.train[row, column] == pytest.approx(one_by_one(rows, width, strength, rows), abs=1e-9)


@pytest.mark.slow
def test_leave_one_out_is_what_fitting_without_each_row_gives() -> None:
    ours, rows = found(), list(range(30))
    for row, width in enumerate(WIDTHS):
        for column, strength in enumerate(RIDGE):
            # without a row, p = n - 1 interpolates exactly where the shortcut divides by zero
            if strength == 0 and width in (29, 30):
                continue
            errors = [one_by_one([i for i in rows if i != left], width, strength, [left]) for left in rows]
            assert ours.leave_one_out[row, column] == pytest.approx(np.mean(errors), rel=1e-6)


def test_leave_one_context_out_is_what_fitting_without_each_context_gives() -> None:
    ours, contexts = found(5), np.arange(30).reshape(-1, 5).tolist()
    for row, width in enumerate(WIDTHS):
        for column, strength in enumerate(RIDGE):
            # the others decide on the head of a width by its norm, which the smoother of all rows does not know
            if strength == 0 and 25 <= width < 30:
                assert np.isnan(ours.leave_one_context_out[row, column])
                continue
            errors = [
                one_by_one([row for others in contexts if others != left for row in others], width, strength, left)
                for left in contexts
            ]
            pool, targets, _, _ = problem()
            carried = growth(pool[:30, :width], targets[:30], 5) if strength == 0 else 1.0
            assert ours.leave_one_context_out[row, column] == pytest.approx(carried * np.mean(errors), rel=1e-6)


def test_gcv_and_its_form_for_contexts_from_the_smoother() -> None:
    pool, targets, _, num_train = problem()
    size = 5
    ours = found(size)
    for row, width in enumerate(WIDTHS):
        for column, strength in enumerate(RIDGE):
            features = pool[:num_train, :width]
            if strength == 0 and width >= num_train:
                rest = np.linalg.pinv(features @ features.T)
            else:
                inverse = np.linalg.inv(features.T @ features + num_train * strength * np.eye(width))
                rest = np.eye(num_train) - features @ inverse @ features.T
            residual = rest @ targets[:num_train]
            gcv = np.mean(np.sum(residual**2, axis=1)) / (np.trace(rest) / num_train) ** 2
            assert ours.gcv[row, column] == pytest.approx(gcv, rel=1e-5)
            blocks = [rest[start : start + size, start : start + size] for start in range(0, num_train, size)]
            mean = np.mean(blocks, axis=0)
            # a block whose rows may change places
            own, other = np.trace(mean) / size, (mean.sum() - np.trace(mean)) / (size * (size - 1))
            block = (own - other) * np.eye(size) + other
            fresh = np.linalg.solve(block, residual.reshape(-1, size, 4))
            assert ours.corr_gcv[row, column] == pytest.approx(np.sum(fresh**2) / num_train, rel=1e-5)


def test_one_row_a_context_is_plain_gcv() -> None:
    ours = found()
    np.testing.assert_allclose(ours.corr_gcv, ours.gcv, rtol=1e-9)
    np.testing.assert_array_equal(ours.leave_one_context_out, ours.leave_one_out)


def test_constant_and_duplicated_columns_are_solved_by_minimum_norm() -> None:
    pool, targets, _, num_train = problem()
    pool = np.hstack([pool[:, :5], np.zeros((400, 1)), pool[:, :5], np.ones((400, 1)), pool[:, 5:20]])
    population = DensePopulation(pool.T @ pool / 400, pool.T @ targets / 400, float(np.sum(targets**2) / 400))
    widths = [5, 6, 9, 12, 27]
    ours = fitted_risk(pool[:num_train], targets[:num_train], population, widths, ridge=[0.0, 0.1])
    for row, width in enumerate(widths):
        for column, strength in enumerate((0.0, 0.1)):
            head = LinearHead.fit(pool[:num_train, :width], targets[:num_train], ridge=strength, rtol=1e-10)
            expected = np.mean(np.sum((head.predict(pool[:, :width]) - targets) ** 2, axis=1))
            assert ours.risk[row, column] == pytest.approx(expected, rel=1e-6)


def test_more_outputs_than_rows_and_a_ridge_near_rounding_give_the_risk_of_single_heads() -> None:
    pool, _, _, num_train = problem()
    rng = np.random.default_rng(4)
    targets = pool @ rng.standard_normal((60, 40)) / 8 + rng.standard_normal((400, 40))
    population = DensePopulation(pool.T @ pool / 400, pool.T @ targets / 400, float(np.sum(targets**2) / 400))
    widths, ridge = [7, 24, 45, 60], [0.0, 1e-9, 0.3]
    ours = fitted_risk(pool[:num_train], targets[:num_train], population, widths, ridge=ridge)
    for row, width in enumerate(widths):
        for column, strength in enumerate(ridge):
            head = LinearHead.fit(pool[:num_train, :width], targets[:num_train], ridge=strength, rtol=1e-13)
            errors = np.sum((head.predict(pool[:, :width]) - targets) ** 2, axis=1)
            assert ours.risk[row, column] == pytest.approx(np.mean(errors), rel=1e-6)
            assert ours.train[row, column] == pytest.approx(np.mean(errors[:num_train]), abs=1e-6)


def test_what_is_no_problem_is_refused() -> None:
    pool, targets, population, _ = problem()
    with pytest.raises(InputError, match="widths contains 61"):
        fitted_risk(pool[:10], targets[:10], population, [61], ridge=[0.0])
    with pytest.raises(InputError, match="ridge contains -1"):
        fitted_risk(pool[:10], targets[:10], population, [6], ridge=[-1.0])
    with pytest.raises(InputError, match="rows_per_context=3 does not divide 10 rows"):
        fitted_risk(pool[:10], targets[:10], population, [6], ridge=[0.0], rows_per_context=3)
    with pytest.raises(InputError, match="one entry"):
        fitted_risk(pool[:10], targets[:10], population, [], ridge=[0.0])
