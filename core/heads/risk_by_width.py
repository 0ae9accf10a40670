"""Exact risk of the heads of all widths of one draw; narrow models share the work of wide ones.

Excess risk given the features needs no targets and no test set (`conditional_risk`). For widths p that use the first p
columns of one X, it does not need a separate decomposition per width either:

- p <= n, minimum norm: one QR of X serves every width. With X = Q R and Sigma = U'U, M = U R^-1 is upper triangular and
  its leading blocks belong to the narrower models: tr(Sigma_p (X_p'X_p)^-1) is a running sum of its squared columns.
- p > n, minimum norm: K = X_p X_p' grows by the product of the new columns, and its inverse by an update of low rank.
- with ridge: one decomposition of the smaller Gram matrix per width, for all strengths.

Where these would lose precision (nearly rank-deficient X), the width is solved by SVD instead, and `method` records it.
"""

# Letters: n rows, d features, p width, w widths, r ridge strengths.

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64, Real
from numpy import ndarray
from scipy import linalg
from scipy.linalg import lapack

from lab.core import validation
from lab.core.errors import InputError
from lab.core.heads.decompositions import default_rank_tolerance, thin_svd
from lab.core.heads.factor_population import FactorPopulation
from lab.core.heads.min_norm_above_n import WideGram
from lab.core.heads.population import DiagonalPopulation, ModePopulation, Population
from lab.core.heads.ridge_risk import ridge_risks

# ||X||_F^2 ||X^+||_F^2 is an upper bound of the squared condition number; the QR route stays accurate well beyond this
_LARGEST_QR_CONDITION = 1e20


# features beyond these are divided by a power of two: sums of fourth powers are formed
_USUAL = (1e-60, 1e60)
# of the largest feature, in powers of two: its square and the inverse are normal numbers
_LARGEST_EXPONENT = 508


@dataclass(frozen=True, slots=True)
class NestedRisk:
    """Exact excess risk given the features, for every width (rows) and ridge strength (columns), summed over outputs.

    Attributes:
        bias: see `ConditionalRisk`.
        variance: see `ConditionalRisk`.
        squared_weight_norm: E||Bhat||_F^2 given the features.
        rank: numerical rank of the features.
        method: how each width was solved: "qr", "cholesky", "spectrum" or "svd".
    """

    bias: Float64[ndarray, "w r"]
    variance: Float64[ndarray, "w r"]
    squared_weight_norm: Float64[ndarray, "w r"]
    rank: Int64[ndarray, " w"]
    method: tuple[str, ...]

    @property
    def excess(self) -> Float64[ndarray, "w r"]:
        """Bias plus variance."""
        return self.bias + self.variance


def nested_risk(
    features: Real[ndarray, "n d"],
    population: Population,
    widths: Sequence[int],
    *,
    ridge: Sequence[float] = (0.0,),
    rtol: float | None,
) -> NestedRisk:
    """Risk of the heads on the first p features, for all p in `widths`.

    The result for a width is bit-identical whichever other widths are requested, as long as X has at least as many
    columns as rows. Column-major X (feature by feature) is fastest.

    Args:
        features: X; the rows are independent draws of the population.
        population: second moments of features and targets.
        widths: p, each from 1 to d.
        ridge: lambda of (X'X + n lambda I)^-1 X'Y; 0 is the minimum-norm head, infinity the head that predicts zero.
        rtol: fraction of the largest singular value below which one counts as zero; None for each width's
            `default_rank_tolerance`.

    Raises:
        InputError: if a width or strength is out of range, or values are not finite or have squares that are not.
    """
    matrix = np.asfortranarray(validation.real_array("features", features, shape=(None, None)))
    _check(matrix, population, widths, ridge)
    unit = _unit(matrix)
    if unit != 1:
        matrix, population = matrix / unit, population.scaled(1 / unit)
    if rtol is None:
        tolerances = [default_rank_tolerance(matrix.shape[0], width) for width in widths]
    else:
        tolerances = [validation.number_in_unit_interval("rtol", rtol)] * len(widths)
    shape = (len(widths), len(ridge))
    result = NestedRisk(np.empty(shape), np.empty(shape), np.empty(shape), np.empty(len(widths), np.int64), ())
    methods = [""] * len(widths)
    zero = [column for column, strength in enumerate(ridge) if strength == 0]
    positive = [column for column, strength in enumerate(ridge) if 0 < strength < np.inf]
    silent = [column for column, strength in enumerate(ridge) if strength == np.inf]
    if zero:
        _minimum_norm(matrix, population, widths, tolerances, result, methods, zero)
    if positive:
        strengths = np.array([ridge[column] for column in positive]) / unit**2
        for row, width in enumerate(widths):
            risks = ridge_risks(matrix[:, :width], population, strengths, rtol=tolerances[row])
            result.bias[row, positive] = risks.bias
            result.variance[row, positive] = risks.variance
            result.squared_weight_norm[row, positive] = risks.squared_weight_norm
            if not zero:
                result.rank[row], methods[row] = risks.rank, "spectrum"
    if silent:
        result.bias[:, silent] = np.array([[population.signal(width)] for width in widths])
        result.variance[:, silent] = result.squared_weight_norm[:, silent] = 0.0
        if not zero and not positive:
            for row, width in enumerate(widths):
                result.rank[row], methods[row] = thin_svd(matrix[:, :width], rtol=tolerances[row]).rank, "svd"
    norm = result.squared_weight_norm / unit**2
    return NestedRisk(result.bias, result.variance, norm, result.rank, tuple(methods))


def _unit(features: Float64[ndarray, "n d"]) -> float:
    """A power of two to divide features by, so that sums of fourth powers stay in float64; 1 for usual features."""
    largest = float(np.max(np.abs(features), initial=0.0))
    if largest == 0 or _USUAL[0] < largest < _USUAL[1]:
        return 1.0
    _, exponent = np.frexp(largest)
    if abs(exponent) > _LARGEST_EXPONENT:
        raise InputError(
            f"features contain {largest:.3g}, whose square float64 cannot hold; give features and population in "
            "another unit"
        )
    return float(np.ldexp(1.0, exponent))


def _minimum_norm(
    features: Float64[ndarray, "n d"],
    population: Population,
    widths: Sequence[int],
    tolerances: Sequence[float],
    result: NestedRisk,
    methods: list[str],
    columns: list[int],
) -> None:
    num_rows = features.shape[0]
    narrow = _narrow(features, population) if min(widths) <= num_rows else None
    wide = WideGram(features, population)
    for row in np.argsort(widths):
        width = widths[row]
        values = None
        if narrow is not None and width <= num_rows:
            values, rank, method = narrow.at(width, tolerances[row]), width, "qr"
        elif width > num_rows:
            values, rank, method = wide.at(width), num_rows, "cholesky"
        if values is None:
            risks = ridge_risks(features[:, :width], population, np.zeros(1), rtol=tolerances[row])
            values = (float(risks.bias[0]), float(risks.variance[0]), float(risks.squared_weight_norm[0]))
            rank, method = risks.rank, "svd"
        for column in columns:
            result.bias[row, column], result.variance[row, column], result.squared_weight_norm[row, column] = values
        result.rank[row], methods[row] = rank, method


@dataclass(frozen=True, slots=True)
class _Narrow:
    """Running sums over the columns of one QR: entry p - 1 belongs to width p."""

    population: Population
    weighted: Float64[ndarray, " k"]
    inverse: Float64[ndarray, " k"]
    squared_condition: Float64[ndarray, " k"]

    def at(self, width: int, rtol: float) -> tuple[float, float, float] | None:
        """Bias (zero), variance and squared weight norm; None if the features are nearly rank-deficient."""
        largest = min(_LARGEST_QR_CONDITION, 1 / max(rtol, np.finfo(np.float64).eps) ** 2)
        if width > self.weighted.size or not self.squared_condition[width - 1] < largest:
            return None
        noise_trace = self.population.noise_trace(width)
        norm = self.population.squared_norm(width) + noise_trace * float(self.inverse[width - 1])
        return 0.0, noise_trace * float(self.weighted[width - 1]), norm


def _narrow(features: Float64[ndarray, "n d"], population: Population) -> _Narrow:
    """QR of the first n columns, whatever the grid: its rounding depends on the number of columns."""
    num_columns = min(features.shape)
    factored, _, _, _ = lapack.dgeqrf(features[:, :num_columns], overwrite_a=False)
    triangle = np.asfortranarray(np.triu(factored[:num_columns]))
    # this route ends at a zero on the diagonal; the columns before it are unaffected
    diagonal = np.abs(np.diag(triangle))
    kept = int(np.argmax(diagonal == 0)) if (diagonal == 0).any() else num_columns
    inverse, _ = lapack.dtrtri(triangle[:kept, :kept])
    with np.errstate(over="ignore", invalid="ignore"):
        inverse_squares = np.sum(inverse**2, axis=0)
        weighted = np.cumsum(_weighted_squares(population, triangle[:kept, :kept], inverse, inverse_squares))
        inverse_sums = np.cumsum(inverse_squares)
        squared_condition = np.cumsum(np.sum(triangle[:kept, :kept] ** 2, axis=0)) * inverse_sums
        return _Narrow(population, weighted, inverse_sums, squared_condition)


def _weighted_squares(
    population: Population,
    triangle: Float64[ndarray, "k k"],
    inverse: Float64[ndarray, "k k"],
    inverse_squares: Float64[ndarray, " k"],
) -> Float64[ndarray, " k"]:
    """Squared norm of every column of Sigma^½ R^-1, whatever the root: those of R^-1 are nested as widths are."""
    num_columns = triangle.shape[0]
    if num_columns == 0:
        return inverse_squares
    if isinstance(population, FactorPopulation):
        # R^-T F by substitution: R^-1 itself grows as 1/s^½, and F'R^-1 does not
        moved = linalg.solve_triangular(triangle, population.factor[:num_columns], trans="T", check_finite=False)
        return population.noise_variance * inverse_squares + np.sum(moved**2, axis=1)
    if isinstance(population, DiagonalPopulation | ModePopulation):
        variances = population.variances[:num_columns]
        return variances[0] * inverse_squares if np.ptp(variances) == 0 else variances @ inverse**2
    return np.sum((population.dense(num_columns)[0] @ inverse) * inverse, axis=0)


def _check(
    features: Float64[ndarray, "n d"], population: Population, widths: Sequence[int], ridge: Sequence[float]
) -> None:
    most = min(features.shape[1], population.num_features)
    if len(widths) == 0:
        raise InputError("widths is empty; give at least one model size")
    for width in widths:
        if validation.whole_number("widths", width) > most:
            raise InputError(f"widths contains {width}, expected 1 to {most}, the number of features")
    if len(ridge) == 0:
        raise InputError("ridge is empty; give at least one strength, 0 for the minimum-norm head")
    for strength in ridge:
        if not strength >= 0:
            raise InputError(f"ridge contains {strength}, expected numbers of 0 or more")
