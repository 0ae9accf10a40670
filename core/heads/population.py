"""Second moments of features and targets at every width, which determine the prediction risk of a linear head.

A population describes rows (x, y) whose best linear prediction of y from the first p features is B_p' x, with
Sigma_p = E[x x'] of those features and Sigma_e,p = E[e e'] of the residual e = y - B_p' x. For jointly Gaussian rows, e
is independent of x, so the linear model is well specified at each width (as in Hastie et al., arXiv 1903.08560; Luo,
Wang and Huang, arXiv 2410.00699, use width as model size).

The risk depends on B_p only through B_p B_p', so any matrix with the same product may replace it.
"""

# Letters: p width, q latent dimension, m outputs, r outputs after reduction to at most q.

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from jaxtyping import Float64
from numpy import ndarray
from scipy import linalg
from typing_extensions import override

from lab.core import validation
from lab.core.errors import InputError
from lab.core.heads.decompositions import default_rank_tolerance


class CrossRangeError(InputError):
    """Targets are correlated with features that do not vary: no rows have such moments, but for rounding."""


@dataclass(frozen=True, slots=True)
class Spectrum:
    """Feature covariance in its eigenbasis, and the signal along each direction.

    Attributes:
        eigenvalues: s_i of Sigma_p, in no particular order.
        squared_coefficients: b_i^2 = ||v_i' B_p||^2, v_i the eigenvector of s_i.
    """

    eigenvalues: Float64[ndarray, " p"]
    squared_coefficients: Float64[ndarray, " p"]


class Population(ABC):
    """Second moments at every width up to `num_features`."""

    @property
    @abstractmethod
    def num_features(self) -> int:
        """The widest representation."""

    @abstractmethod
    def num_outputs(self, width: int) -> int:
        """Number of entries of the target y at this width."""

    @abstractmethod
    def target_trace(self, width: int) -> float:
        """tr E[y y']: the risk of predicting zero (the null risk, noise included)."""

    @abstractmethod
    def signal(self, width: int) -> float:
        """tr B_p' Sigma_p B_p: how much of `target_trace` the best linear head on `width` features explains."""

    @abstractmethod
    def squared_norm(self, width: int) -> float:
        """||B_p||_F^2."""

    @abstractmethod
    def spectrum(self, width: int) -> Spectrum:
        """Eigenvalues of Sigma_p and the signal along each eigenvector."""

    @abstractmethod
    def dense(self, width: int) -> tuple[Float64[ndarray, "p p"], Float64[ndarray, "p m"]]:
        """Sigma_p and a B_p, as dense matrices."""

    @abstractmethod
    def scaled(self, factor: float) -> "Population":
        """The same rows with features in another unit: `factor` times the numbers."""

    def noise_trace(self, width: int) -> float:
        """tr Sigma_e,p: the lowest prediction risk of any linear head on the first `width` features."""
        return self.target_trace(width) - self.signal(width)


@dataclass(frozen=True)
class DiagonalPopulation(Population):
    """Uncorrelated features, with the same targets at every width.

    Attributes:
        variances: E[x_i^2].
        coefficients: the rows of B, which do not change with the width because the features are uncorrelated.
        target_variance: tr E[y y'].
    """

    variances: Float64[ndarray, " p"]
    coefficients: Float64[ndarray, "p m"]
    target_variance: float

    @property
    @override
    def num_features(self) -> int:
        return self.variances.size

    @override
    def num_outputs(self, width: int) -> int:
        return self.coefficients.shape[1]

    @override
    def target_trace(self, width: int) -> float:
        return self.target_variance

    @override
    def signal(self, width: int) -> float:
        return float(self.variances[:width] @ self._squared_coefficients[:width])

    @override
    def squared_norm(self, width: int) -> float:
        return float(self._squared_coefficients[:width].sum())

    @override
    def spectrum(self, width: int) -> Spectrum:
        return Spectrum(self.variances[:width], self._squared_coefficients[:width])

    @override
    def dense(self, width: int) -> tuple[Float64[ndarray, "p p"], Float64[ndarray, "p m"]]:
        return np.diag(self.variances[:width]), self.coefficients[:width]

    @override
    def scaled(self, factor: float) -> "DiagonalPopulation":
        return replace(self, variances=self.variances * factor**2, coefficients=self.coefficients / factor)

    @cached_property
    def _squared_coefficients(self) -> Float64[ndarray, " p"]:
        return np.sum(self.coefficients**2, axis=1)


@dataclass(frozen=True)
class ModePopulation(Population):
    """Independent modes, one feature and one target each: the state grows with the model.

    Every width p is a separate problem, with p outputs. B_p B_p' is diagonal (transitions that are diagonal or made
    of plane rotations).

    Attributes:
        variances: E[x_i^2].
        squared_coefficients: the diagonal of B B'.
        target_variances: E[y_i^2].
    """

    variances: Float64[ndarray, " p"]
    squared_coefficients: Float64[ndarray, " p"]
    target_variances: Float64[ndarray, " p"]

    @property
    @override
    def num_features(self) -> int:
        return self.variances.size

    @override
    def num_outputs(self, width: int) -> int:
        return width

    @override
    def target_trace(self, width: int) -> float:
        return float(self.target_variances[:width].sum())

    @override
    def signal(self, width: int) -> float:
        return float(self.variances[:width] @ self.squared_coefficients[:width])

    @override
    def squared_norm(self, width: int) -> float:
        return float(self.squared_coefficients[:width].sum())

    @override
    def spectrum(self, width: int) -> Spectrum:
        return Spectrum(self.variances[:width], self.squared_coefficients[:width])

    @override
    def dense(self, width: int) -> tuple[Float64[ndarray, "p p"], Float64[ndarray, "p m"]]:
        return np.diag(self.variances[:width]), np.diag(np.sqrt(self.squared_coefficients[:width]))

    @override
    def scaled(self, factor: float) -> "ModePopulation":
        return replace(
            self, variances=self.variances * factor**2, squared_coefficients=self.squared_coefficients / factor**2
        )


@dataclass(frozen=True)
class DensePopulation(Population):
    """Arbitrary second moments, given as matrices.

    Attributes:
        covariance: Sigma = E[x x']; of any rank: features without variance of their own change no prediction, and of
            all B that predict alike the one of least norm is meant.
        cross: E[x y'], in the range of Sigma.
        target_variance: tr E[y y'].

    Raises:
        InputError: for mismatched shapes, a covariance that is not symmetric positive semi-definite, and a cross
            covariance that no targets can have.
    """

    covariance: Float64[ndarray, "p p"]
    cross: Float64[ndarray, "p m"]
    target_variance: float

    def __post_init__(self) -> None:
        covariance = validation.covariance_matrix("covariance", self.covariance)
        cross = validation.real_array("cross", self.cross, shape=(covariance.shape[0], None))
        object.__setattr__(self, "covariance", covariance)
        object.__setattr__(self, "cross", cross)
        validation.non_negative_number("target_variance", self.target_variance)

    @property
    @override
    def num_features(self) -> int:
        return self.covariance.shape[0]

    @override
    def num_outputs(self, width: int) -> int:
        return self.cross.shape[1]

    @override
    def target_trace(self, width: int) -> float:
        return self.target_variance

    @override
    def signal(self, width: int) -> float:
        return float(np.sum(self.cross[:width] * self.coefficients(width)))

    @override
    def squared_norm(self, width: int) -> float:
        return float(np.sum(self.coefficients(width) ** 2))

    @override
    def spectrum(self, width: int) -> Spectrum:
        eigenvalues, vectors = linalg.eigh(self.covariance[:width, :width])
        squared_coefficients = np.sum((vectors.T @ self.coefficients(width)) ** 2, axis=1)
        is_varying = eigenvalues > default_rank_tolerance(width, width) * eigenvalues[-1]
        return Spectrum(np.where(is_varying, eigenvalues, 0.0), np.where(is_varying, squared_coefficients, 0.0))

    @override
    def dense(self, width: int) -> tuple[Float64[ndarray, "p p"], Float64[ndarray, "p m"]]:
        return self.covariance[:width, :width], self.coefficients(width)

    @override
    def scaled(self, factor: float) -> "DensePopulation":
        return DensePopulation(self.covariance * factor**2, self.cross * factor, self.target_variance)

    def coefficients(self, width: int) -> Float64[ndarray, "p m"]:
        """B_p = Sigma_p^+ E[x y']_1:p, cached: a sweep needs it for every draw.

        Raises:
            CrossRangeError: if features without variance are correlated with the targets.
        """
        if width not in self._known:
            self._known[width] = self._solved(width)
        return self._known[width]

    @cached_property
    def _known(self) -> dict[int, Float64[ndarray, "p m"]]:
        return {}

    def _solved(self, width: int) -> Float64[ndarray, "p m"]:
        sigma, cross = self.covariance[:width, :width], self.cross[:width]
        tolerance = default_rank_tolerance(width, width)
        try:
            factor = linalg.cho_factor(sigma, lower=True)
            pivots = np.square(np.diag(factor[0])) / np.diag(sigma)
            if pivots.min() > width * tolerance:
                solution: Float64[ndarray, "p m"] = linalg.cho_solve(factor, cross)
                return solution
        except linalg.LinAlgError:
            pass
        eigenvalues, vectors = linalg.eigh(sigma)
        is_varying = eigenvalues > tolerance * eigenvalues[-1]
        if not is_varying.any():
            raise InputError(f"covariance is zero in its first {width} features; at least one must vary")
        along = vectors.T @ cross
        # no target correlates with what does not vary: beyond rounding this is another law's cross covariance
        unseen, rank = float(np.abs(along[~is_varying]).max(initial=0.0)), int(is_varying.sum())
        if unseen > math.sqrt(tolerance) * float(np.abs(along).max(initial=0.0)):
            raise CrossRangeError(
                f"covariance has rank {rank} in its first {width} features, but cross is not in its range (off by "
                f"{unseen:.3g}): no targets have it; give E[x y'] of the same rows, or raise the covariance's diagonal"
            )
        inverse = vectors[:, is_varying] / eigenvalues[is_varying]
        return inverse @ along[is_varying]
