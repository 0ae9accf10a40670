"""Fitted heads of all widths of one draw: their risk on a population, and what the training rows alone tell of it.

`risk_by_width` averages over noise that is independent of the features; here targets are what they are. Ridge heads
(X'X + n lambda I)^-1 X'Y of the first p columns of X come from one decomposition for each strength:

    [X; (n lambda)^½ I] = Q R,    Bhat_p = R_p^-1 Z_p,    Z = Q_1'Y,    Q_1 the first n rows of Q,

whose leading blocks are those of the narrower heads; where n lambda is not small, R is the Cholesky factor of X'X + n
lambda I, for half of the work. With A = R^-T C and H = R^-T Sigma R^-1, the risk
tr E[yy'] - 2 tr C'Bhat + tr Bhat'Sigma Bhat is, for all widths at once, a running sum of A * Z and a running double sum
of H * ZZ'. The smoother S = Q_1 Q_1' gives what estimates the risk from training rows: generalized cross-validation,
leave-one-out, and their forms for rows that come in contexts: CorrGCV (Atanasov, Zavatone-Veth and Pehlevan, arXiv
2408.04607), where the block of S of a context is its mean over contexts, and leave-one-context-out.

Minimum-norm heads with p >= n use K = X_p X_p', whose inverse stands for the limit of (I - S) / (n lambda). A row that
determines a direction alone, with dependent rows or without, has its leave-one-out error from `rows_left_out`.
"""

# Letters: n rows, d features, D those of the population, m outputs, p width, w widths, r ridge strengths, g contexts,
# k columns.

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Real
from numpy import ndarray
from scipy import linalg
from scipy.linalg import blas, lapack

from lab.core import validation
from lab.core.errors import InputError
from lab.core.heads.contexts_left_out import context_left_out, contexts_left_out
from lab.core.heads.decompositions import default_rank_tolerance, num_independent, thin_svd
from lab.core.heads.population import DensePopulation
from lab.core.heads.rows_left_out import rows_left_out

# condition of K below which a width is solved by SVD, and that of a mean block of I - S below which it is singular
_LEAST_RECIPROCAL = 1e-10
# ||X||_F^2 / (n lambda) below which X'X + n lambda I has a factor to eight digits and more
_LARGEST_OF_GRAM = 1e8
# 1 - h of a row, below which it is rounding of what is solved for all widths at once
_LEAST_FREE = 1e-5


@dataclass(frozen=True, slots=True)
class FittedRisk:
    """One value for each width (rows) and ridge strength (columns): mean squared errors, summed over outputs.

    Attributes:
        risk: on the population's rows.
        train: on the training rows.
        leave_one_out: exact leave-one-out error of the training rows: of heads of the same kind fitted without each.
        gcv: generalized cross-validation, for independent rows.
        corr_gcv: the same for rows in contexts; `gcv` with one row a context.
        leave_one_context_out: see `contexts_left_out`; `leave_one_out` with one row a context. NaN where a context
            alone determines a direction: without ridge for n - T <= p < n, p the rank.
    """

    risk: Float64[ndarray, "w r"]
    train: Float64[ndarray, "w r"]
    leave_one_out: Float64[ndarray, "w r"]
    gcv: Float64[ndarray, "w r"]
    corr_gcv: Float64[ndarray, "w r"]
    leave_one_context_out: Float64[ndarray, "w r"]


def fitted_risk(
    features: Real[ndarray, "n d"],
    targets: Real[ndarray, "n m"],
    population: DensePopulation,
    widths: Sequence[int],
    *,
    ridge: Sequence[float],
    rows_per_context: int = 1,
) -> FittedRisk:
    """Fit the heads on the first p features, for all p in `widths` and all strengths.

    Args:
        features: X.
        targets: Y.
        population: second moments of the rows on which the risk is measured: any rows, such as held-out ones.
        widths: p, each from 1 to d.
        ridge: lambda; 0 is the minimum-norm head.
        rows_per_context: rows that follow each other and are from one context; contexts are independent.

    Raises:
        InputError: if shapes do not match, values are not finite, a width or strength is out of range, or rows do not
            make whole contexts.
    """
    matrix = np.asfortranarray(validation.real_array("features", features, shape=(None, None)))
    answers = validation.real_array("targets", targets, shape=(matrix.shape[0], None))
    _check(matrix, population, widths, ridge, rows_per_context)
    shape = (len(widths), len(ridge))
    found = FittedRisk(*(np.full(shape, np.nan) for _ in range(6)))
    cross = population.cross
    if answers.shape[1] > answers.shape[0]:
        # heads lie in the span of the rows of Y: in a basis of it, they have n outputs
        span, triangle = np.linalg.qr(answers.T)
        answers, cross = triangle.T, cross @ span
    gram = matrix.T @ matrix if max(ridge) > 0 else None
    moments = population.covariance, cross, population.target_variance
    draw = _Draw(matrix, answers, gram, *moments, rows_per_context)
    for column, strength in enumerate(ridge):
        _fill(found, column, draw, widths, strength)
    return found


@dataclass(frozen=True, slots=True)
class _Draw:
    """The rows of one draw, X'X, and the moments of the rows on which the risk is measured."""

    features: Float64[ndarray, "n d"]
    targets: Float64[ndarray, "n m"]
    gram: Float64[ndarray, "d d"] | None
    covariance: Float64[ndarray, "D D"]
    cross: Float64[ndarray, "D m"]
    target_variance: float
    rows_per_context: int

    def context_sums(self, rows: Float64[ndarray, "n k"]) -> Float64[ndarray, "g k"]:
        """Sums over the rows of a context, over the root of their number."""
        size = self.rows_per_context
        return rows.reshape(-1, size, rows.shape[1]).sum(axis=1) / np.sqrt(size)


def _fill(found: FittedRisk, column: int, draw: _Draw, widths: Sequence[int], strength: float) -> None:
    num_rows = draw.features.shape[0]
    # from p = n on, the minimum-norm head interpolates
    limit = max(widths) if strength > 0 else min(max(widths), num_rows - 1)
    every, num_solved = _every_width(draw, limit, strength, widths) if limit else ([], 0)
    wide = _Interpolating(draw) if strength == 0 else None
    for row in np.argsort(widths):
        width = widths[row]
        if width <= num_solved and not np.isnan(every[2][width - 1]):
            values = [numbers[width - 1] for numbers in every]
        elif wide is not None and width >= num_rows:
            values = wide.at(width)
        else:
            values = _by_svd(draw, width, strength)
        arrays = found.risk, found.train, found.leave_one_out, found.gcv, found.corr_gcv, found.leave_one_context_out
        for array, value in zip(arrays, values, strict=True):
            array[row, column] = value


def _every_width(
    draw: _Draw, limit: int, strength: float, widths: Sequence[int]
) -> tuple[list[Float64[ndarray, " p"]], int]:
    """The six numbers of every width up to `limit`, the last only at `widths`, and up to which width to trust them.

    Leave-one-out error is NaN where a row may determine a direction alone.
    """
    triangle, kept = _triangle(draw, limit, strength)
    if kept == 0:
        return [], 0
    features, targets = draw.features[:, :kept], draw.targets
    num_rows = features.shape[0]

    def moved(columns: Float64[ndarray, "k m"]) -> Float64[ndarray, "k m"]:
        solved: Float64[ndarray, "k m"] = linalg.solve_triangular(triangle, columns, trans="T", check_finite=False)
        return solved

    basis = np.ascontiguousarray(moved(features.T).T)
    head = basis.T @ targets
    products = head @ head.T
    aligned = moved(draw.cross[:kept])
    # the upper triangle of R^-T Sigma R^-1
    sigma, _ = lapack.dsygst(draw.covariance[:kept, :kept], triangle)
    risk = draw.target_variance - 2 * np.cumsum(np.sum(aligned * head, axis=1)) + _nested(sigma.T * products)
    squared = _squared_residuals(basis, targets, head, products)
    hats = np.cumsum(basis**2, axis=1)
    trace, total = hats.sum(axis=0) / num_rows, squared.sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        alone = np.where(hats.max(axis=0) < 1 - _LEAST_FREE, np.mean(squared / (1 - hats) ** 2, axis=0), np.nan)
        gcv = total / num_rows / (1 - trace) ** 2
        size = draw.rows_per_context
        if size == 1:
            return [risk, total / num_rows, alone, gcv, gcv, alone], kept
        together = draw.context_sums(basis)
        between = _squared_residuals(together, draw.context_sums(targets), head, products).sum(axis=0)
        along = np.cumsum(np.sum(together**2, axis=0)) * size / num_rows
        corrected = _corrected(total, between, 1 - trace, 1 - along, draw) / num_rows
    # without ridge, a head on fewer rows than features is another one: of minimum norm
    most = kept if strength > 0 else min(kept, num_rows - size - 1)
    left = contexts_left_out(basis, head, targets, [w for w in widths if w <= most], size, is_projection=strength == 0)
    return [risk, total / num_rows, alone, gcv, corrected, left], kept


def _triangle(draw: _Draw, limit: int, strength: float) -> tuple[Float64[ndarray, "k k"], int]:
    """R of the first columns, and how many of them are far from dependent."""
    num_rows = draw.features.shape[0]
    penalty = num_rows * strength
    if draw.gram is not None and np.trace(draw.gram[:limit, :limit]) < _LARGEST_OF_GRAM * penalty:
        squares = draw.gram[:limit, :limit] + penalty * np.eye(limit)
        factor, info = lapack.dpotrf(squares, clean=1)
        if info == 0:
            return factor, limit
    stacked = draw.features[:, :limit]
    if strength > 0:
        stacked = np.asfortranarray(np.vstack([stacked, np.sqrt(penalty) * np.eye(limit)]))
    factored, _, _, _ = lapack.dgeqrf(stacked, overwrite_a=False)
    triangle = np.asfortranarray(np.triu(factored[:limit]))
    kept = num_independent(triangle)
    return triangle[:kept, :kept], kept


def _corrected(
    total: Float64[ndarray, " p"],
    between: Float64[ndarray, " p"],
    own: Float64[ndarray, " p"],
    along: Float64[ndarray, " p"],
    draw: _Draw,
) -> Float64[ndarray, " p"]:
    """Squared residuals over the square of the mean block of I - S: its two eigenvalues, along and across a context.

    NaN where one of them is rounding: rows of a context with the same features leave nothing along it.
    """
    size = draw.rows_per_context
    if size == 1:
        return between / along**2
    across = (size * own - along) / (size - 1)
    is_known = np.minimum(along, across) > _LEAST_RECIPROCAL * np.maximum(along, across)
    return np.where(is_known, between / along**2 + (total - between) / across**2, np.nan)


def _nested(products: Float64[ndarray, "k k"]) -> Float64[ndarray, " k"]:
    """The sum of each leading block of a symmetric matrix, from its lower triangle."""
    return np.cumsum(2 * np.tril(products, -1).sum(axis=1) + np.diag(products))


def _squared_residuals(
    basis: Float64[ndarray, "n k"],
    targets: Float64[ndarray, "n m"],
    head: Float64[ndarray, "k m"],
    products: Float64[ndarray, "k k"],
) -> Float64[ndarray, "n k"]:
    """||y - sum_j<=p q_j z_j||^2 of each row, for all p."""
    above = np.tril(products, -1).T
    earlier = blas.dtrmm(1.0, above, basis.T, trans_a=1).T
    change = basis * (2 * (earlier - targets @ head.T) + basis * np.diag(products))
    # rounding may leave a perfect fit below zero
    return np.maximum(np.sum(targets**2, axis=1)[:, None] + np.cumsum(change, axis=1), 0.0)


class _Interpolating:
    """Minimum-norm heads with at least as many features as rows, in ascending order of widths."""

    def __init__(self, draw: _Draw) -> None:
        num_rows = draw.features.shape[0]
        self._draw, self._width = draw, 0
        self._gram, self._weighted = np.zeros((num_rows, num_rows)), np.zeros((num_rows, num_rows))
        self._explained = np.zeros_like(draw.targets)

    def at(self, width: int) -> list[float]:
        """The six numbers of a width."""
        self._grow(width)
        norm = np.abs(self._gram).sum(axis=0).max()
        factor, info = lapack.dpotrf(self._gram, lower=1, clean=1)
        if info == 0:
            reciprocal, _ = lapack.dpocon(factor, norm, uplo="L")
        if info or reciprocal < _LEAST_RECIPROCAL:
            return _by_svd(self._draw, width, 0.0)
        inverse = linalg.cho_solve((factor, True), np.eye(factor.shape[0]), check_finite=False)
        weights = inverse @ self._draw.targets
        risk = self._draw.target_variance - 2 * float(np.sum(weights * self._explained))
        risk += float(np.sum(weights * (self._weighted @ weights)))
        alone = float(np.mean(np.sum(weights**2, axis=1) / np.diag(inverse) ** 2))
        return [risk, 0.0, *_of_inverse(inverse, weights, alone, self._draw, 0.0)]

    def _grow(self, width: int) -> None:
        """Add the columns up to a width to X X', X Sigma X' and X C."""
        features, sigma = self._draw.features, self._draw.covariance
        before, block = slice(0, self._width), slice(self._width, width)
        new = features[:, block]
        self._gram += new @ new.T
        half = (features[:, before] @ sigma[before, block] + new @ sigma[block, block] / 2) @ new.T
        self._weighted += half + half.T
        self._explained += new @ self._draw.cross[block]
        self._width = width


def _of_inverse(
    inverse: Float64[ndarray, "n n"], weights: Float64[ndarray, "n m"], alone: float, draw: _Draw, strength: float
) -> list[float]:
    """The estimates of a head from I - S and its residuals, or the same multiple of both; alone is leave-one-out."""
    num_rows, own = inverse.shape[0], np.diag(inverse)
    squared = np.sum(weights**2, axis=1)
    size = draw.rows_per_context
    along = float(np.einsum("iaib->", inverse.reshape(-1, size, num_rows // size, size))) / num_rows
    total, mean_own = np.array([squared.sum()]), np.array([own.mean()])
    between = np.array([np.sum(draw.context_sums(weights) ** 2)])
    with np.errstate(divide="ignore", invalid="ignore"):
        corrected = _corrected(total, between, mean_own, np.array([along]), draw)
        return [
            alone,
            float(total[0] / num_rows / mean_own[0] ** 2),
            float(corrected[0] / num_rows),
            context_left_out(inverse, weights, size, of_all_rows=strength == 0) if size > 1 else alone,
        ]


def _by_svd(draw: _Draw, width: int, strength: float) -> list[float]:
    """The six numbers of a width whose features are nearly dependent, or in which a row is alone with a direction."""
    features, targets = draw.features[:, :width], draw.targets
    num_rows = features.shape[0]
    if not features.any():
        zero = float(np.mean(np.sum(targets**2, axis=1)))
        return [draw.target_variance, zero, zero, zero, zero, zero]
    svd = thin_svd(features, rtol=10 * default_rank_tolerance(num_rows, width))
    penalty = num_rows * strength
    gain = svd.singular / (svd.singular**2 + penalty)
    weight = svd.right.T @ (gain[:, None] * (svd.left.T @ targets))
    risk = draw.target_variance - 2 * float(np.sum(weight * draw.cross[:width]))
    risk += float(np.sum(weight * (draw.covariance[:width, :width] @ weight)))
    alone = rows_left_out(svd, targets, penalty)
    inverse = (svd.left / (svd.singular**2 + penalty)) @ svd.left.T
    if svd.rank == num_rows:
        # I - S is n lambda times this, which stays known where n lambda is next to nothing
        weights = inverse @ targets
        train = penalty**2 * float(np.sum(weights**2)) / num_rows
        return [risk, train, *_of_inverse(inverse, weights, alone, draw, strength)]
    rest = np.eye(num_rows) - svd.left @ svd.left.T + penalty * inverse
    residual = rest @ targets
    # a rank above n - T leaves I - S one below T, and so every block of it singular
    return [risk, float(np.sum(residual**2)) / num_rows, *_of_inverse(rest, residual, alone, draw, strength)]


def _check(
    features: Float64[ndarray, "n d"],
    population: DensePopulation,
    widths: Sequence[int],
    ridge: Sequence[float],
    rows_per_context: int,
) -> None:
    most = min(features.shape[1], population.num_features)
    if len(widths) == 0 or len(ridge) == 0:
        raise InputError("widths and ridge are lists of at least one entry; give one")
    for width in widths:
        if validation.whole_number("widths", width) > most:
            raise InputError(f"widths contains {width}, expected 1 to {most}, the number of features")
    for strength in ridge:
        if not 0 <= strength < np.inf:
            raise InputError(f"ridge contains {strength}, expected finite numbers of 0 or more")
    if features.shape[0] % validation.whole_number("rows_per_context", rows_per_context):
        raise InputError(
            f"rows_per_context={rows_per_context} does not divide {features.shape[0]} rows; give whole contexts"
        )
