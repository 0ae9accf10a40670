"""Second moments of features and targets at every width, which determine the prediction risk of a linear head.

A population describes rows (x, y) whose best linear prediction of y from the first p features is B_p' x, with
Sigma_p = E[x x'] of those features and Sigma_e,p = E[e e'] of the residual e = y - B_p' x. For jointly Gaussian rows, e
is independent of x, so the linear model is well specified at each width (as in Hastie et al., arXiv 1903.08560; Luo,
Wang and Huang, arXiv 2410.00699, use width as model size).

The risk depends on B_p only through B_p B_p', so any matrix with the same product may replace it.
"""

# Letters: p width, q latent dimension, m outputs, r outputs after reduction to at most q.

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float64
from numpy import ndarray
from scipy import linalg
from typing_extensions import override


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

    def noise_trace(self, width: int) -> float:
        """tr Sigma_e,p: the lowest prediction risk of any linear head on the first `width` features."""
        return self.target_trace(width) - self.signal(width)


@dataclass(frozen=True)
class FactorPopulation(Population):
    """Features x = W z + u of a few latent variables, Sigma_p = W_p P W_p' + s I.

    Attributes:
        loading: W; a width p keeps its first p rows.
        latent_covariance: P = E[z z'], positive definite.
        noise_variance: s, the variance of each entry of u, independent of z; positive.
        cross: E[z y'].
        target_variances: E[y_j^2] of every output.
        outputs_follow_width: whether a width p predicts the first p outputs only (the next token, as wide as the
            model) or all of them (the next state).
    """

    loading: Float64[ndarray, "p q"]
    latent_covariance: Float64[ndarray, "q q"]
    noise_variance: float
    cross: Float64[ndarray, "q m"]
    target_variances: Float64[ndarray, " m"]
    outputs_follow_width: bool = False

    @property
    @override
    def num_features(self) -> int:
        return self.loading.shape[0]

    @override
    def num_outputs(self, width: int) -> int:
        return min(width, self.cross.shape[1]) if self.outputs_follow_width else self.cross.shape[1]

    @override
    def target_trace(self, width: int) -> float:
        return float(self.target_variances[: self.num_outputs(width)].sum())

    @override
    def signal(self, width: int) -> float:
        known = self.at(width)
        return float(np.sum((known.loading_gram @ known.latent_coefficients) * known.reduced_cross))

    @override
    def squared_norm(self, width: int) -> float:
        known = self.at(width)
        return float(np.sum(known.latent_coefficients * (known.loading_gram @ known.latent_coefficients)))

    @override
    def spectrum(self, width: int) -> Spectrum:
        # all but q of the p directions are pure noise: q x q algebra suffices
        root = linalg.cholesky(self.latent_covariance, lower=True)
        left, singular, _ = linalg.svd(self.loading[:width] @ root, full_matrices=False)
        projected = left.T @ (self.loading[:width] @ self.at(width).latent_coefficients)
        eigenvalues = np.full(width, self.noise_variance)
        eigenvalues[: singular.size] += singular**2
        squared_coefficients = np.zeros(width)
        squared_coefficients[: singular.size] = np.sum(projected**2, axis=1)
        return Spectrum(eigenvalues, squared_coefficients)

    @override
    def dense(self, width: int) -> tuple[Float64[ndarray, "p p"], Float64[ndarray, "p m"]]:
        loading = self.loading[:width]
        covariance = loading @ self.latent_covariance @ loading.T
        covariance[np.diag_indices_from(covariance)] += self.noise_variance
        return covariance, loading @ self.at(width).latent_coefficients

    def at(self, width: int) -> "FactorWidth":
        """The q x q algebra of a width, cached: a sweep needs it for every draw."""
        if width not in self._known:
            loading, cross = self.loading[:width], self._reduced_cross(width)
            gram = loading.T @ loading
            if width < loading.shape[1]:
                # the q x q system would be singular but for s: solve the p x p one for B, then W_p H = B
                system = loading @ self.latent_covariance @ loading.T
                system[np.diag_indices_from(system)] += self.noise_variance
                latent = np.linalg.pinv(loading) @ linalg.solve(system, loading @ cross, assume_a="pos")
            else:
                system = self.latent_covariance @ gram
                system[np.diag_indices_from(system)] += self.noise_variance
                latent = np.linalg.solve(system, cross)
            self._known[width] = FactorWidth(gram, cross, latent)
        return self._known[width]

    @cached_property
    def _known(self) -> "dict[int, FactorWidth]":
        return {}

    def _reduced_cross(self, width: int) -> Float64[ndarray, "q r"]:
        cross = self.cross[:, : self.num_outputs(width)]
        if cross.shape[1] <= cross.shape[0]:
            return cross
        (triangle,) = linalg.qr(cross.T, mode="r", check_finite=False)
        return np.ascontiguousarray(triangle[: cross.shape[0]].T)


@dataclass(frozen=True, slots=True)
class FactorWidth:
    """A `FactorPopulation` at one width.

    Attributes:
        loading_gram: W_p'W_p.
        reduced_cross: F with F F' = E[z y'] E[z y']' and at most q columns: 2,000 outputs cost no more than q.
        latent_coefficients: H with B_p = W_p H: (s I + P W_p'W_p)^-1 F for p >= q, and the H of least norm for p < q.
    """

    loading_gram: Float64[ndarray, "q q"]
    reduced_cross: Float64[ndarray, "q r"]
    latent_coefficients: Float64[ndarray, "q r"]


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


@dataclass(frozen=True)
class DensePopulation(Population):
    """Arbitrary second moments, given as matrices.

    Attributes:
        covariance: Sigma = E[x x'], positive definite.
        cross: E[x y'].
        target_variance: tr E[y y'].
    """

    covariance: Float64[ndarray, "p p"]
    cross: Float64[ndarray, "p m"]
    target_variance: float

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
        return Spectrum(eigenvalues, np.sum((vectors.T @ self.coefficients(width)) ** 2, axis=1))

    @override
    def dense(self, width: int) -> tuple[Float64[ndarray, "p p"], Float64[ndarray, "p m"]]:
        return self.covariance[:width, :width], self.coefficients(width)

    def coefficients(self, width: int) -> Float64[ndarray, "p m"]:
        """B_p = Sigma_p^-1 E[x y']_1:p, cached: a sweep needs it for every draw."""
        if width not in self._known:
            factor = linalg.cho_factor(self.covariance[:width, :width], lower=True)
            self._known[width] = linalg.cho_solve(factor, self.cross[:width])
        return self._known[width]

    @cached_property
    def _known(self) -> dict[int, Float64[ndarray, "p m"]]:
        return {}
