"""Risk along a grid of model sizes: theory at every width, and the shape of a curve.

Three definitions of risk, which differ in their zero: excess risk, relative to the best linear head on the same
features (as in Luo, Wang and Huang, arXiv 2410.00699); total risk, the error on a new row; and fixed-problem excess,
relative to the best linear head on the widest representation, which includes the misspecification of narrow features
(the misspecified model of Hastie, Montanari, Rosset and Tibshirani, arXiv 1903.08560).
"""

# Letters: d features before a projection, p width, w widths, r ridge strengths.

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64
from numpy import ndarray

from lab.core.errors import InputError
from lab.core.heads.asymptotics import asymptotic_risk, exact_risk, optimal_ridge
from lab.core.heads.factor_population import FactorPopulation
from lab.core.heads.population import DensePopulation, Population

# widths below p = n from which on the shape of the risk there is spoken of
FEWEST_BELOW = 3


@dataclass(frozen=True, slots=True)
class TheoryCurve:
    """Predicted risk at every width (rows) and ridge strength (columns), summed over outputs.

    Attributes:
        widths: p.
        gamma: p/n.
        num_outputs: entries of the target; divide by it for a risk per output.
        signal: tr B_p' Sigma_p B_p, the null risk: the excess risk of predicting zero.
        noise_trace: tr Sigma_e,p.
        snr: the signal-to-noise ratio, signal / noise_trace; infinite without noise.
        misspecification: noise_trace minus that of the widest representation. NaN if the number of outputs depends on
            the width, since each width is then a separate problem.
        ridges: λ.
        kappa: effective ridge.
        bias: asymptotic.
        variance: asymptotic.
        exact_excess: mean excess risk of the minimum-norm head at this n for Gaussian rows; NaN without a closed form.
    """

    widths: Int64[ndarray, " w"]
    gamma: Float64[ndarray, " w"]
    num_outputs: Int64[ndarray, " w"]
    signal: Float64[ndarray, " w"]
    noise_trace: Float64[ndarray, " w"]
    snr: Float64[ndarray, " w"]
    misspecification: Float64[ndarray, " w"]
    ridges: Float64[ndarray, "w r"]
    kappa: Float64[ndarray, "w r"]
    bias: Float64[ndarray, "w r"]
    variance: Float64[ndarray, "w r"]
    exact_excess: Float64[ndarray, " w"]

    @property
    def excess(self) -> Float64[ndarray, "w r"]:
        """Bias plus variance."""
        return self.bias + self.variance

    @property
    def total(self) -> Float64[ndarray, "w r"]:
        """Mean squared error on a new row: excess plus noise trace."""
        return self.excess + self.noise_trace[:, None]

    @property
    def fixed_problem_excess(self) -> Float64[ndarray, "w r"]:
        """Misspecification plus excess: total minus the noise trace of the widest representation."""
        return self.excess + self.misspecification[:, None]


class Point(NamedTuple):
    """One model size and its risk."""

    width: int
    risk: float


@dataclass(frozen=True, slots=True)
class CurveShape:
    """Where a risk curve is lowest and highest.

    Attributes:
        smallest: the smallest model.
        best: lowest risk overall. Here and below, ties go to the smallest model.
        best_below: lowest risk with fewer features than rows; None if the grid has no such width.
        best_above: lowest risk with more features than rows; None if the grid has no such width.
        peak: highest risk.
        peak_is_inside: whether the highest risk is at neither end of the grid.
    """

    smallest: Point
    best: Point
    best_below: Point | None
    best_above: Point | None
    peak: Point
    peak_is_inside: bool

    @property
    def first_descent_is_degenerate(self) -> bool:
        """Whether risk below p = n is lowest at the smallest model, without a sweet spot in between."""
        return self.best_below is not None and self.best_below == self.smallest

    @property
    def second_descent_wins(self) -> bool:
        """Whether some model with more features than rows beats every model with fewer."""
        if self.best_below is None or self.best_above is None:
            return False
        return self.best_above.risk < self.best_below.risk


def theory_curve(
    population: Population, widths: Sequence[int], *, num_train: int, ridges: Sequence[float] | Float64[ndarray, "w r"]
) -> TheoryCurve:
    """Asymptotic risk at every width and ridge strength, and the exact mean if it has a closed form.

    Args:
        population: second moments of features and targets.
        widths: p, each from 1 to `population.num_features`.
        num_train: n.
        ridges: λ of every column; or an array with a row for each width, such as `optimal_ridges(…)[:, None]`.

    Raises:
        InputError: if a width is out of range, or the ridges are negative or of the wrong shape.
    """
    _check_widths(population, widths)
    strengths = np.asarray(ridges, dtype=np.float64)
    if strengths.ndim == 1:
        strengths = np.tile(strengths, (len(widths), 1))
    if strengths.ndim != 2 or strengths.shape[0] != len(widths) or strengths.size == 0:
        raise InputError(
            f"ridges has shape {np.shape(ridges)}; give a list of strengths, or one row for each of the {len(widths)} "
            "widths"
        )
    rows, exact = [], []
    for width, row in zip(widths, strengths, strict=True):
        spectrum, noise_trace = population.spectrum(width), _noise_trace(population, width)
        rows.append(
            [asymptotic_risk(spectrum, noise_trace, num_train=num_train, ridge=ridge) for ridge in row.tolist()]
        )
        exact.append(exact_risk(spectrum, noise_trace, num_train=num_train))
    num_outputs = np.array([population.num_outputs(width) for width in widths])
    signal = np.array([population.signal(width) for width in widths])
    noise_traces = np.array([row[0].noise_trace for row in rows])
    widest = population.num_features
    same_problem = num_outputs == population.num_outputs(widest)
    with np.errstate(divide="ignore"):
        snr = signal / noise_traces
    return TheoryCurve(
        widths=np.array(widths, dtype=np.int64),
        gamma=np.array(widths) / num_train,
        num_outputs=num_outputs,
        signal=signal,
        noise_trace=noise_traces,
        snr=snr,
        misspecification=np.where(same_problem, noise_traces - _noise_trace(population, widest), np.nan),
        ridges=strengths,
        kappa=np.array([[risk.kappa for risk in row] for row in rows]),
        bias=np.array([[risk.bias for risk in row] for row in rows]),
        variance=np.array([[risk.variance for risk in row] for row in rows]),
        exact_excess=np.array([np.nan if risk is None else risk.excess for risk in exact]),
    )


def optimal_ridges(population: Population, widths: Sequence[int], *, num_train: int) -> Float64[ndarray, " w"]:
    """The ridge strength of lowest asymptotic risk at every width (`asymptotics.optimal_ridge`).

    Raises:
        InputError: if a width is out of range.
    """
    _check_widths(population, widths)
    optima = [
        optimal_ridge(population.spectrum(width), _noise_trace(population, width), num_train=num_train)
        for width in widths
    ]
    return np.array([optimum.strength for optimum in optima])


def projected(population: Population, directions: Float64[ndarray, "d p"]) -> Population:
    """The population of features φ = S'x, S = `directions`; a width keeps the first columns of S.

    The targets stay the same. With orthonormal columns and a `FactorPopulation` the result is one again; otherwise it
    is dense, and its spectrum costs an eigendecomposition at each width.

    Raises:
        InputError: if S does not have one row for every feature and at most as many columns, or if the number of
            outputs changes with the width.
    """
    num_features = population.num_features
    if directions.ndim != 2 or directions.shape[0] != num_features or not 1 <= directions.shape[1] <= num_features:
        raise InputError(
            f"directions has shape {directions.shape}; expected {num_features} rows, one for each feature, and 1 to "
            f"{num_features} columns"
        )
    if population.num_outputs(1) != population.num_outputs(num_features):
        raise InputError("population has as many outputs as features; a projection needs targets that stay the same")
    if isinstance(population, FactorPopulation):
        loading, gram = directions.T @ population.loading, directions.T @ directions
        # 1e-12: error of orthonormalisation in float64 for a few thousand columns
        if np.allclose(gram, np.eye(gram.shape[0]), rtol=0, atol=1e-12):
            return replace(population, loading=loading)
        covariance = loading @ population.latent_covariance @ loading.T + population.noise_variance * gram
        cross = loading @ population.cross
    else:
        full_covariance, coefficients = population.dense(num_features)
        covariance = directions.T @ full_covariance @ directions
        cross = directions.T @ (full_covariance @ coefficients)
    return DensePopulation(covariance, cross, population.target_trace(num_features))


def curve_shape(widths: Sequence[int], risks: Float64[ndarray, " w"], *, num_train: int) -> CurveShape:
    """Lowest and highest points of a measured or predicted risk curve, on both sides of p = n.

    Args:
        widths: p, in any order.
        risks: one risk of each width; infinite is allowed, and NaN leaves the width out.
        num_train: n.

    Raises:
        InputError: if there are not as many risks as widths, or all of them are NaN.
    """
    if len(widths) != len(risks):
        raise InputError(f"risks has {len(risks)} entries for {len(widths)} widths; give one for each")
    points = sorted(Point(int(width), float(risk)) for width, risk in zip(widths, risks, strict=True))
    points = [point for point in points if not np.isnan(point.risk)]
    if not points:
        raise InputError("risks has no entry that is a number; give the risk of at least one width")
    peak = max(points, key=lambda point: point.risk)
    return CurveShape(
        smallest=points[0],
        best=min(points, key=lambda point: point.risk),
        best_below=min((p for p in points if p.width < num_train), key=lambda point: point.risk, default=None),
        best_above=min((p for p in points if p.width > num_train), key=lambda point: point.risk, default=None),
        peak=peak,
        peak_is_inside=points[0].width < peak.width < points[-1].width,
    )


def _noise_trace(population: Population, width: int) -> float:
    noise_trace = population.noise_trace(width)
    # without noise, target minus signal is rounding of either sign
    return 0.0 if abs(noise_trace) <= 1e-13 * population.target_trace(width) else noise_trace


def _check_widths(population: Population, widths: Sequence[int]) -> None:
    if len(widths) == 0:
        raise InputError("widths is empty; give at least one model size")
    for width in widths:
        if not 1 <= width <= population.num_features:
            raise InputError(
                f"widths contains {width}, expected 1 to {population.num_features}, the number of features"
            )
