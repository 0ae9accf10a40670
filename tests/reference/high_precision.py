"""Risk given the features and its theory in 50 digits, from second moments that are exact in float64."""

# Letters: n rows, p features, q latent variables, m outputs.

from typing import Any, NamedTuple

import mpmath
import numpy as np
from numpy import ndarray

from lab.core.heads.factor_population import FactorPopulation

mpmath.mp.dps = 50


class HighPrecisionRisk(NamedTuple):
    bias: Any
    variance: Any
    noise_trace: Any


def exact(array: ndarray) -> ndarray:
    """Numbers of 50 digits that equal those of an array."""
    numbers = np.empty(np.shape(array), object)
    flat, given = numbers.reshape(-1), np.asarray(array, dtype=np.float64).reshape(-1)
    for place, number in enumerate(given):
        flat[place] = mpmath.mpf(float(number))
    return numbers


def solve(matrix: ndarray, right: ndarray) -> ndarray:
    """matrix^-1 right, by elimination of a symmetric positive definite matrix."""
    matrix, right = matrix.copy(), right.copy()
    for k in range(len(matrix)):
        pivot_row, pivot_right = matrix[k] / matrix[k, k], right[k] / matrix[k, k]
        matrix[k], right[k] = pivot_row, pivot_right
        for i in range(len(matrix)):
            if i != k:
                factor = matrix[i, k]
                matrix[i, k:] = matrix[i, k:] - factor * pivot_row[k:]
                right[i] = right[i] - factor * pivot_right
    return right


def identity(size: int) -> ndarray:
    return exact(np.eye(size))


class Moments(NamedTuple):
    sigma: ndarray
    best: ndarray
    noise_trace: Any


def moments(population: FactorPopulation, width: int) -> Moments:
    """Sigma_p, B_p and tr Sigma_e,p."""
    loading, latent = exact(population.loading[:width]), exact(population.latent_covariance)
    num_outputs = population.num_outputs(width)
    cross = exact(population.cross[:, :num_outputs])
    sigma = loading.dot(latent).dot(loading.T) + identity(width) * mpmath.mpf(population.noise_variance)
    seen = loading.dot(cross)
    best = solve(sigma, seen)
    if population.residual_variances is None:
        trace = exact(population.target_variances[:num_outputs]).sum()
    else:
        trace = exact(population.residual_variances[:num_outputs]).sum() + (cross * solve(latent, cross)).sum()
    return Moments(sigma, best, trace - (seen * best).sum())


def risk(features: ndarray, known: Moments, ridge: float) -> HighPrecisionRisk:
    """Bias and variance of (X'X + n lambda I)^-1 X'Y given X, and tr Sigma_e."""
    sigma, best, noise_trace = known
    rows = exact(features)
    num_rows, width = rows.shape
    penalty = mpmath.mpf(ridge) * num_rows
    if width <= num_rows:
        head_map = solve(rows.T.dot(rows) + identity(width) * penalty, rows.T)
    else:
        head_map = solve(rows.dot(rows.T) + identity(num_rows) * penalty, rows).T
    error = head_map.dot(rows.dot(best)) - best
    bias = (error * sigma.dot(error)).sum()
    return HighPrecisionRisk(bias, noise_trace * (head_map * sigma.dot(head_map)).sum(), noise_trace)


def asymptotic(known: Moments, num_train: int, ridge: float) -> HighPrecisionRisk:
    """The theory of independent rows by a root of the equation of the effective ridge."""
    sigma, best, noise_trace = known
    width = len(sigma)
    eigenvalues, vectors = mpmath.eigsy(mpmath.matrix(sigma.tolist()))
    values = [eigenvalues[i] for i in range(width)]
    along = [
        sum(mpmath.fdot(vectors[:, i], best[:, j].tolist()) ** 2 for j in range(best.shape[1])) for i in range(width)
    ]
    if ridge == 0 and width < num_train:
        return HighPrecisionRisk(mpmath.mpf(0), noise_trace * width / (num_train - width), noise_trace)

    def gap(kappa: Any) -> Any:
        return ridge / kappa + sum(value / (value + kappa) for value in values) / num_train - 1

    low, high = mpmath.mpf(10) ** -60, mpmath.mpf(10) ** 10
    for _ in range(400):
        middle = mpmath.sqrt(low * high)
        low, high = (middle, high) if gap(middle) > 0 else (low, middle)
    kappa = low
    share = sum((value / (value + kappa)) ** 2 for value in values) / num_train
    bias = kappa**2 * sum(b * s / (s + kappa) ** 2 for b, s in zip(along, values, strict=True)) / (1 - share)
    return HighPrecisionRisk(bias, noise_trace * share / (1 - share), noise_trace)
