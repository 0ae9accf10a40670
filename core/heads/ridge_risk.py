"""Exact risk of ridge and minimum-norm heads of one width: one decomposition for all strengths."""

# Letters: n rows, p features, r rank, m outputs, L ridge strengths, q latent dimension.

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from lab.core.heads.decompositions import RightSpectrum, right_spectrum
from lab.core.heads.factor_population import FactorPopulation, FactorWidth
from lab.core.heads.population import DiagonalPopulation, ModePopulation, Population


@dataclass(frozen=True, slots=True)
class RidgeRisks:
    """Excess risk given the features, one entry for each strength, summed over outputs."""

    bias: Float64[ndarray, " L"]
    variance: Float64[ndarray, " L"]
    squared_weight_norm: Float64[ndarray, " L"]
    rank: int


def ridge_risks(
    features: Float64[ndarray, "n p"], population: Population, strengths: Float64[ndarray, " L"], *, rtol: float
) -> RidgeRisks:
    """Bias and variance of (X'X + n lambda I)^-1 X'Y for every lambda, 0 included: X^+ Y.

    With shrinkage h = n lambda / (s^2 + n lambda) and the right vectors V of X, the mean head is D = V (1 - h) V'B, so
    that D - B = -(V h V'B + (I - VV') B): no term is the difference of larger ones.
    """
    num_rows, width = features.shape
    spectrum = right_spectrum(features, smallest_ridge=float(strengths.min()), rtol=rtol)
    penalised = spectrum.singular[:, None] ** 2 + num_rows * strengths
    shrunk, gain = num_rows * strengths / penalised, spectrum.singular[:, None] / penalised
    noise_trace = population.noise_trace(width)
    if _is_isotropic(population):
        bias, kept = _isotropic_bias(population, width, spectrum, shrunk)
        along = np.full(spectrum.singular.size, population.spectrum(width).eigenvalues[0])
    elif isinstance(population, FactorPopulation):
        bias, kept, along = _factor_bias(population.at(width), spectrum, shrunk)
    else:
        bias, kept = _general_bias(population, width, spectrum, shrunk)
        along = np.sum(_times_sigma(population, width, spectrum.right.T) * spectrum.right.T, axis=0)
    return RidgeRisks(
        bias=bias,
        variance=noise_trace * _weighted_sums(along, gain**2),
        squared_weight_norm=_weighted_sums(kept, (1 - shrunk) ** 2) + noise_trace * _weighted_sums(1.0, gain**2),
        rank=spectrum.singular.size,
    )


def _is_isotropic(population: Population) -> bool:
    return isinstance(population, DiagonalPopulation | ModePopulation) and np.ptp(population.variances) == 0


def _isotropic_bias(
    population: Population, width: int, spectrum: RightSpectrum, shrunk: Float64[ndarray, "r L"]
) -> tuple[Float64[ndarray, " L"], Float64[ndarray, " r"]]:
    """Bias, and ||v_i'B||^2; with Sigma = c I the two parts of D - B are orthogonal."""
    moments = population.spectrum(width)
    if isinstance(population, ModePopulation):
        along = spectrum.right**2 @ moments.squared_coefficients
    else:
        along = np.sum((spectrum.right @ population.dense(width)[1]) ** 2, axis=1)
    # if p = r the features span B, so the difference would be pure rounding
    unseen = max(float(moments.squared_coefficients.sum() - along.sum()), 0.0) if along.size < width else 0.0
    return moments.eigenvalues[0] * (_weighted_sums(along, shrunk**2) + unseen), along


def _factor_bias(
    known: FactorWidth, spectrum: RightSpectrum, shrunk: Float64[ndarray, "r L"]
) -> tuple[Float64[ndarray, " L"], Float64[ndarray, " r"], Float64[ndarray, " r"]]:
    """Bias, ||v_i'B||^2 and v_i'Sigma v_i."""
    noise = known.covariance.noise_variance
    factor_seen, factor_unseen = known.covariance.split(spectrum.right)
    head_seen, head_unseen = factor_seen @ known.latent_coefficients, factor_unseen @ known.latent_coefficients
    left_unseen, seen_unseen = np.sum(head_unseen**2), factor_unseen.T @ head_unseen
    bias = np.empty(shrunk.shape[1])
    for column, factors in enumerate(shrunk.T):
        lost = factors[:, None] * head_seen
        bias[column] = noise * (np.sum(lost**2) + left_unseen) + np.sum((factor_seen.T @ lost + seen_unseen) ** 2)
    return bias, np.sum(head_seen**2, axis=1), noise + np.sum(factor_seen**2, axis=1)


def _general_bias(
    population: Population, width: int, spectrum: RightSpectrum, shrunk: Float64[ndarray, "r L"]
) -> tuple[Float64[ndarray, " L"], Float64[ndarray, " r"]]:
    """Bias by forming D - B for each strength, and ||v_i'B||^2."""
    coefficients = population.dense(width)[1]
    seen = spectrum.right @ coefficients
    unseen = coefficients - spectrum.right.T @ seen if spectrum.singular.size < width else np.zeros_like(coefficients)
    bias = np.empty(shrunk.shape[1])
    for column, factors in enumerate(shrunk.T):
        error = spectrum.right.T @ (factors[:, None] * seen) + unseen
        bias[column] = np.sum(error * _times_sigma(population, width, error))
    return bias, np.sum(seen**2, axis=1)


def _weighted_sums(weights: Float64[ndarray, " r"] | float, values: Float64[ndarray, "r L"]) -> Float64[ndarray, " L"]:
    """One sum per strength, one by one: the rounding of a matrix product would depend on their number."""
    return np.array([np.sum(weights * column) for column in values.T.copy()])


def _times_sigma(population: Population, width: int, vectors: Float64[ndarray, "p k"]) -> Float64[ndarray, "p k"]:
    if isinstance(population, DiagonalPopulation | ModePopulation):
        return population.variances[:width, None] * vectors
    return population.dense(width)[0] @ vectors
