"""Minimum-norm heads with more features than rows: n x n matrices updated as the width grows.

With K = X X' and G = X Sigma X', the variance is tr Sigma_e tr(K^-1 G K^-1), the mean head is D = X'K^-1 X B, and the
bias is the Sigma-weighted square of D - B.
"""

# Letters: n rows, d features, p width, q latent dimension, m outputs.

from typing import Protocol

import numpy as np
from jaxtyping import Float64
from numpy import ndarray
from scipy import linalg
from scipy.linalg import blas, lapack

from lab.core.heads.factor_population import FactorPopulation
from lab.core.heads.population import DensePopulation, DiagonalPopulation, ModePopulation, Population

# K^-1 is stored at multiples of this width; columns beyond the last multiple are applied as an update. So a result does
# not depend on which other widths are requested, and n x n factorisations are few.
_BLOCK = 64

# Updates subtract from K^-1. Once its trace has fallen to this fraction of the last factorised one, relative rounding
# errors have grown accordingly, and K is factorised again.
_FRESH_UNTIL = 0.2

# tr K tr K^-1 is an upper bound of the condition number of K, about a hundred times too large on random features. K has
# the squared condition number of X, so anything beyond this is left to the SVD.
_LARGEST_CONDITION = 1e9

# Rounding in what is computed with K^-1, as a multiple of tr K tr K^-1 / n^2 (the mean eigenvalue times the mean
# inverse one) times machine epsilon: at most 12 in 200 problems of 12 to 400 rows, against 50 digits. Results that may
# lose more than this share are left to the SVD.
_ROUNDING, _LARGEST_LOSS = 12 * float(np.finfo(np.float64).eps), 1e-8


class WideGram:
    """K and related sums for one draw; widths must be requested in ascending order."""

    def __init__(self, features: Float64[ndarray, "n d"], population: Population) -> None:
        self._features = features
        self._population = population
        num_rows = features.shape[0]
        self._gram = np.zeros((num_rows, num_rows), order="F")
        self._num_summed = 0
        self._base: Float64[ndarray, "n n"] | None = None
        self._fresh_trace = 0.0
        self._extra = _extra(features, population)

    def at(self, width: int) -> tuple[float, float, float] | None:
        """Bias, variance and squared weight norm at a width above n; None if K is nearly singular."""
        whole = width - width % _BLOCK
        while self._num_summed < whole:
            self._add(slice(self._num_summed, self._num_summed + _BLOCK))
        rest = slice(whole, width)
        base = self._base
        inverse = None if base is None else _updated(base, self._features[:, rest])
        if inverse is None or (base is not None and inverse.trace < _FRESH_UNTIL * float(np.trace(base))):
            direct = _inverse(_add_product(self._gram, self._features[:, rest], overwrite=False))
            inverse = None if direct is None else _Inverse(direct, None)
        if inverse is None:
            return None
        bias, weighted_trace, mean_norm, magnified = self._extra.at(width, rest, inverse)
        mean_condition = self._trace(rest) * inverse.trace / self._features.shape[0] ** 2
        # negated, so that NaN is left to the SVD too
        if not _ROUNDING * mean_condition * max(magnified, 1.0) <= _LARGEST_LOSS:
            return None
        noise_trace = self._population.noise_trace(width)
        return bias, noise_trace * weighted_trace, mean_norm + noise_trace * inverse.trace

    def _trace(self, rest: slice) -> float:
        """tr K."""
        return float(np.trace(self._gram)) + float(np.sum(self._features[:, rest] ** 2))

    def _add(self, block: slice) -> None:
        """Advance by one block of columns."""
        self._gram = _add_product(self._gram, self._features[:, block], overwrite=True)
        self._extra.add(block)
        self._num_summed = block.stop
        if self._base is not None:
            self._base = _updated(self._base, self._features[:, block]).whole()
        if self._base is None or np.trace(self._base) < _FRESH_UNTIL * self._fresh_trace:
            self._base = _inverse(self._gram) if block.stop > self._gram.shape[0] else None
            self._fresh_trace = 0.0 if self._base is None else float(np.trace(self._base))


class _Inverse:
    """K^-1 = base - half half', formed explicitly only if needed."""

    def __init__(self, base: Float64[ndarray, "n n"], half: Float64[ndarray, "n k"] | None) -> None:
        self._base = base
        self._half = half
        self.trace = float(np.trace(base)) - (0.0 if half is None else float(np.sum(half**2)))

    def times(self, columns: Float64[ndarray, "n k"]) -> Float64[ndarray, "n k"]:
        """K^-1 columns."""
        product = self._base @ columns
        return product if self._half is None else product - self._half @ (self._half.T @ columns)

    def whole(self) -> Float64[ndarray, "n n"]:
        """K^-1 as a matrix."""
        return self._base if self._half is None else self._base - self._half @ self._half.T


def _inverse(gram: Float64[ndarray, "n n"]) -> Float64[ndarray, "n n"] | None:
    """K^-1 from the lower triangle of K; None if K is too close to singular."""
    factor, info = lapack.dpotrf(gram, lower=1, clean=0, overwrite_a=0)
    if info != 0:
        return None
    inverse, info = lapack.dpotri(factor, lower=1, overwrite_c=1)
    if info != 0 or not np.trace(gram) * np.trace(inverse) < _LARGEST_CONDITION:
        return None
    # the upper triangle still holds leftovers of the factorisation
    np.copyto(inverse, inverse.T, where=~np.tri(inverse.shape[0], dtype=bool))
    return inverse


def _updated(base: Float64[ndarray, "n n"], columns: Float64[ndarray, "n k"]) -> _Inverse:
    """(K + C C')^-1 = K^-1 - V (I + C'V)^-1 V' with V = K^-1 C (Woodbury): k is small."""
    if columns.shape[1] == 0:
        return _Inverse(base, None)
    moved = base @ columns
    system = columns.T @ moved
    system[np.diag_indices_from(system)] += 1
    factor = linalg.cholesky(system, lower=True, check_finite=False)
    return _Inverse(base, linalg.solve_triangular(factor, moved.T, lower=True, check_finite=False).T)


class _Extra(Protocol):
    """Running sums that a population needs besides K."""

    def add(self, block: slice) -> None:
        """Add a whole block of columns."""
        ...

    def at(self, width: int, rest: slice, inverse: _Inverse) -> tuple[float, float, float, float]:
        """Bias, tr(K^-1 G K^-1), ||D||^2, and how much larger the numbers are whose differences the first two are.

        `rest` holds the columns beyond the last block.
        """
        ...


class _FactorExtra:
    """Sigma = F F' + s I: everything except K has the size of the latent state."""

    def __init__(self, features: Float64[ndarray, "n d"], population: FactorPopulation) -> None:
        self._features = features
        self._population = population
        self._loaded = np.zeros((features.shape[0], population.factor.shape[1]))

    def add(self, block: slice) -> None:
        self._loaded += self._features[:, block] @ self._population.factor[block]

    def at(self, width: int, rest: slice, inverse: _Inverse) -> tuple[float, float, float, float]:
        population, known = self._population, self._population.at(width)
        latent, noise = known.latent_coefficients, population.noise_variance
        loaded = self._loaded + self._features[:, rest] @ population.factor[rest]
        solved = inverse.times(loaded)
        weighted_trace = noise * inverse.trace + float(np.sum(solved**2))
        solved_targets = solved @ latent
        mean_norm = float(np.sum((loaded @ latent) * solved_targets))
        squared_norm = population.squared_norm(width)
        error_norm = squared_norm - mean_norm
        singular, right = known.covariance.directions
        seen = loaded.T @ solved_targets - right @ (singular[:, None] ** 2 * (right.T @ latent))
        bias = noise * error_norm + float(np.sum(seen**2))
        return bias, weighted_trace, mean_norm, _ratio(noise * squared_norm, bias)


class _IsotropicModesExtra:
    """Sigma = c I and B B' diagonal."""

    def __init__(self, features: Float64[ndarray, "n d"], population: ModePopulation) -> None:
        self._features = features
        self._population = population
        self._is_even = np.ptp(population.squared_coefficients) == 0
        self._target_gram = np.zeros((features.shape[0],) * 2, order="F")

    def add(self, block: slice) -> None:
        if not self._is_even:
            self._target_gram = _add_product(self._target_gram, self._scaled(block), overwrite=True)

    def at(self, width: int, rest: slice, inverse: _Inverse) -> tuple[float, float, float, float]:
        squared = self._population.squared_coefficients[:width]
        total, variance = float(squared.sum()), float(self._population.variances[0])
        if self._is_even:
            # K^-1 cancels: nothing is lost
            mean_norm = float(squared[0]) * self._features.shape[0]
            bias = variance * float(squared[0]) * (width - self._features.shape[0])
            magnified = 0.0
        else:
            gram = _add_product(self._target_gram, self._scaled(rest), overwrite=False)
            gram = np.tril(gram) + np.tril(gram, -1).T
            mean_norm = float(np.sum(inverse.whole() * gram))
            bias = variance * (total - mean_norm)
            magnified = _ratio(variance * total, bias)
        return bias, variance * inverse.trace, mean_norm, magnified

    def _scaled(self, block: slice) -> Float64[ndarray, "n k"]:
        return np.asfortranarray(self._features[:, block] * np.sqrt(self._population.squared_coefficients[block]))


class _GeneralExtra:
    """Any Sigma: G is accumulated along with K, and D - B is formed explicitly."""

    def __init__(self, features: Float64[ndarray, "n d"], population: Population) -> None:
        self._features = features
        self._population = population
        self._weighted = np.zeros((features.shape[0],) * 2)

    def add(self, block: slice) -> None:
        self._weighted += self._products(block)

    def at(self, width: int, rest: slice, inverse: _Inverse) -> tuple[float, float, float, float]:
        weighted = self._weighted + self._products(rest)
        whole_inverse = inverse.whole()
        products = (whole_inverse @ weighted) * whole_inverse
        weighted_trace = float(np.sum(products))
        features, coefficients = self._features[:, :width], self._coefficients(width)
        mean_head = features.T @ (whole_inverse @ (features @ coefficients))
        error = mean_head - coefficients
        bias = float(np.sum(error * self._times_sigma(error)))
        # rounding of D - B is relative to B, and is squared with it
        magnified = max(
            _ratio(self._population.signal(width), bias) ** 0.5, _ratio(float(np.sum(np.abs(products))), weighted_trace)
        )
        return bias, weighted_trace, float(np.sum(mean_head**2)), magnified

    def _products(self, block: slice) -> Float64[ndarray, "n n"]:
        """X_p Sigma_p X_p' minus the same for the columns before the block."""
        new = self._features[:, block]
        if isinstance(self._population, DiagonalPopulation | ModePopulation):
            return (new * self._population.variances[block]) @ new.T
        assert isinstance(self._population, DensePopulation), "the other populations have their own sums"
        before = slice(0, block.start)
        sigma = self._population.covariance
        half = (self._features[:, before] @ sigma[before, block] + new @ sigma[block, block] / 2) @ new.T
        return half + half.T

    def _coefficients(self, width: int) -> Float64[ndarray, "p m"]:
        if isinstance(self._population, DiagonalPopulation):
            return self._population.coefficients[:width]
        return self._population.dense(width)[1]

    def _times_sigma(self, error: Float64[ndarray, "p m"]) -> Float64[ndarray, "p m"]:
        if isinstance(self._population, DiagonalPopulation | ModePopulation):
            return self._population.variances[: error.shape[0], None] * error
        assert isinstance(self._population, DensePopulation), "the other populations have their own sums"
        return self._population.covariance[: error.shape[0], : error.shape[0]] @ error


def _ratio(size: float, rest: float) -> float:
    """How much larger numbers are than what is left of them; nothing is lost of nothing."""
    if size == 0:
        return 1.0
    return size / rest if rest > 0 else np.inf


def _extra(features: Float64[ndarray, "n d"], population: Population) -> _Extra:
    if isinstance(population, FactorPopulation):
        return _FactorExtra(features, population)
    if isinstance(population, ModePopulation) and np.ptp(population.variances) == 0:
        return _IsotropicModesExtra(features, population)
    return _GeneralExtra(features, population)


def _add_product(
    total: Float64[ndarray, "n n"], columns: Float64[ndarray, "n k"], *, overwrite: bool
) -> Float64[ndarray, "n n"]:
    """total + columns columns', lower triangle only."""
    if columns.shape[1] == 0:
        return total
    added: Float64[ndarray, "n n"] = blas.dsyrk(
        1.0, np.asfortranarray(columns), beta=1.0, c=total, lower=1, overwrite_c=overwrite
    )
    return added
