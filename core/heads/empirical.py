"""Asymptotic risk of a linear head on rows drawn from a measured set, each with the leverage of its direction.

Second moments say how far rows reach, and leverages how much their lengths vary, but not that a direction which few
rows have is learned from few. Here the rows themselves stand for their distribution. With Q = (X'X/n + lambda I)^-1 and
E the mean over rows of the set, the deterministic equivalent of independent rows is

    Q = (lambda I + E x x'/(1 + delta(x)))^-1,    delta(x) = x'Q x/n,    Bbar = Q E x y'/(1 + delta(x)),

and what the deviation of a head from Bbar adds, V = E (Bhat - Bbar)(Bhat - Bbar)', solves

    V = Q E[ x x' (|e(x)|^2 + x'V x)/(1 + delta(x))^2 ] Q/n,    e = y - Bbar'x,

so that the risk is E |e|^2 + x'V x. Both follow from leaving a row out (for rows with a covariance each: Louart, Liao
and Couillet, arXiv 1702.05419). For Gaussian rows it is `asymptotic_risk`, for x = tau^½ Sigma^½ g `elliptical_risk`.
Rows that are copies of one another have a low delta together, since Q knows their direction; but it knows only their
mean number, and where a draw has one or two rows of a kind, the line is low (docs/probe.md has by how much). For
lambda -> 0 and p > n, lambda delta is finite. Written as

    M = c I + E x x'/(f + d(x)),    d(x) = x'M^-1 x/n,

both limits are one iteration: c = 1, f = lambda, d = lambda delta; for lambda = 0 and p < n, c = 0, f = 1, d = delta.
"""

# Letters: N rows of the set, p width, m outputs, r directions.

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from numpy import ndarray
from scipy import linalg
from scipy.sparse.linalg import LinearOperator, gmres

from lab.core import validation
from lab.core.errors import InputError

# of the largest variance of directions, below which there is none
_LEAST_VARIANCE = 1e-10
# of log d and of V's traces: the line itself is not nearer than a percent
_PRECISION, _MOST_STEPS, _MEMORY = 1e-4, 300, 4
# its exponential is finite
_LARGEST_LOG = 700.0
# of a row that determines a direction alone, the residual is rounding
_LARGEST_SHARE = 1 - 1e-9


@dataclass(frozen=True, slots=True)
class EmpiricalRisk:
    """Risk over fresh rows of the set.

    Attributes:
        mean_error: of Bbar, the mean head over draws.
        spread: what the deviation of a head from Bbar adds.
    """

    mean_error: float
    spread: float

    @property
    def total(self) -> float:
        """Mean squared error on a fresh row."""
        return self.mean_error + self.spread


def empirical_risk(
    features: Float64[ndarray, "N p"], targets: Float64[ndarray, "N m"], *, num_train: int, ridge: float
) -> EmpiricalRisk:
    """The risk (formulas at the top of this file) of a ridge or minimum-norm head on n rows like these.

    Residuals of Bbar are those of fresh rows: Bbar is fitted to the set, which explains its own noise by a share of
    about p/N.

    Args:
        features: rows that stand for all, many more than p.
        targets: of these rows.
        num_train: n.
        ridge: lambda; 0 for the minimum-norm head.

    Raises:
        InputError: without ridge where n is the number of directions and the risk is infinite; if the set has as many
            directions as rows; for arguments that do not fit together; if no fixed point is found.
    """
    x = validation.real_array("features", features, shape=(None, None))
    y = validation.real_array("targets", targets, shape=(x.shape[0], None))
    n = validation.whole_number("num_train", num_train)
    strength = validation.non_negative_number("ridge", ridge)
    present = x.any(axis=1)
    if present.any() and not present.all():
        # rows of zeros have no part in a fit, and zeros are predicted for them
        share = float(np.mean(present))
        rows = max(round(n * share), 1)
        found = empirical_risk(x[present], y[present], num_train=rows, ridge=strength * n / rows)
        zeros = float(np.mean(np.sum(y[~present] ** 2, axis=1)))
        return EmpiricalRisk(share * found.mean_error + (1 - share) * zeros, share * found.spread)
    x = _directions(x)
    size, rank = x.shape
    if rank >= size:
        raise InputError(f"features has {size} rows and as many directions; give more rows")
    if strength == 0 and rank == n:
        raise InputError(f"num_train={n} is the number of directions: without ridge the risk is infinite")
    constant, floor = (0.0, 1.0) if strength == 0 and rank < n else (1.0, strength)
    d = _settled(x, n, constant, floor)
    weights = 1 / (floor + d)
    # with z = L^-1 x, M = LL', every Q stands between two z
    z = linalg.solve_triangular(_root(x, weights, constant), x.T, lower=True, check_finite=False).T
    errors = y - z @ (z.T @ (y * weights[:, None]) / size)
    own = np.minimum(weights * np.sum(z**2, axis=1) / size, _LARGEST_SHARE)
    squares = np.sum(errors**2, axis=1) / (1 - own)
    spread = _spread(z, weights, squares, n)
    return EmpiricalRisk(float(squares.mean()), float(spread.mean()))


def _directions(x: Float64[ndarray, "N p"]) -> Float64[ndarray, "N r"]:
    """The rows in a basis of the directions that vary."""
    values, vectors = linalg.eigh(x.T @ x / len(x))
    if not values[-1] > 0:
        raise InputError("features are all 0; at least one must vary")
    kept = values > _LEAST_VARIANCE * values[-1]
    return x if kept.all() else x @ vectors[:, kept]


def _root(x: Float64[ndarray, "N r"], weights: Float64[ndarray, " N"], constant: float) -> Float64[ndarray, "r r"]:
    """L, lower triangular, with LL' = M."""
    scaled = x * np.sqrt(weights / len(x))[:, None]
    matrix = scaled.T @ scaled
    matrix.flat[:: matrix.shape[0] + 1] += constant
    root: Float64[ndarray, "r r"] = linalg.cholesky(matrix, lower=True, check_finite=False, overwrite_a=True)
    return root


def _settled(x: Float64[ndarray, "N r"], num_train: int, constant: float, floor: float) -> Float64[ndarray, " N"]:
    """d of every row: a fixed point of logarithms, by Anderson's method, which needs a third of the plain steps."""

    def step(log_d: Float64[ndarray, " N"]) -> Float64[ndarray, " N"]:
        # a point that is too far is given up below, by what is not finite there
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            root = _root(x, 1 / (floor + np.exp(np.minimum(log_d, _LARGEST_LOG))), constant)
            z = linalg.solve_triangular(root, x.T, lower=True, check_finite=False)
            return np.log(np.maximum(np.sum(z**2, axis=0) / num_train, tiny))

    tiny = np.finfo(float).tiny
    lengths = np.maximum(np.sum(x**2, axis=1), tiny)
    log_d = np.log(lengths * (x.shape[1] / num_train / lengths.mean() if constant == 0 else 1 / num_train))
    points: list[Float64[ndarray, " N"]] = []
    changes: list[Float64[ndarray, " N"]] = []
    for _ in range(_MOST_STEPS):
        try:
            change = step(log_d) - log_d
        except linalg.LinAlgError:
            change = np.full_like(log_d, math.inf)
        largest = float(np.abs(change).max())
        if largest < _PRECISION:
            return np.exp(log_d + change)
        if changes and not largest <= 2 * float(np.abs(changes[-1]).max()):
            # too far: on from the last point by a plain step
            log_d, points, changes = points[-1] + changes[-1], [], []
            continue
        if not math.isfinite(largest):
            break
        points, changes = [*points[-_MEMORY:], log_d], [*changes[-_MEMORY:], change]
        log_d = log_d + change
        if len(changes) > 1:
            slopes = np.diff(changes, axis=0).T
            share = np.linalg.lstsq(slopes, change, rcond=None)[0]
            log_d = log_d - (np.diff(points, axis=0).T + slopes) @ share
    raise InputError(
        f"num_train={num_train}: no fixed point of {x.shape[1]} directions was found; leave this width out"
    )


def _spread(
    z: Float64[ndarray, "N r"], weights: Float64[ndarray, " N"], squares: Float64[ndarray, " N"], num_train: int
) -> Float64[ndarray, " N"]:
    """x'V x of every row, which is linear in itself."""

    def added(errors: Float64[ndarray, " N"]) -> Float64[ndarray, " N"]:
        inner = z.T @ (z * (weights**2 * errors / (len(z) * num_train))[:, None])
        found: Float64[ndarray, " N"] = np.sum((z @ inner) * z, axis=1)
        return found

    size = len(z)
    of_draw = LinearOperator((size, size), matvec=lambda spread: spread - added(spread), dtype=np.float64)
    known = added(squares)
    spread, failed = gmres(of_draw, known, x0=known, rtol=_PRECISION, restart=50, maxiter=4)
    if failed or not spread.mean() >= 0 or not math.isfinite(spread.mean()):
        raise InputError(f"num_train={num_train}: what noise adds was not found; leave this width out")
    return np.asarray(spread)
