"""The population of features of a few latent variables: the state of a hidden Markov model, and independent noise."""

# Letters: p width, q latent dimension, m outputs, r outputs after reduction to at most q, k = min(p, q) directions.

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from jaxtyping import Float64
from numpy import ndarray
from scipy import linalg
from typing_extensions import override

from lab.core.heads.decompositions import default_rank_tolerance
from lab.core.heads.factor_covariance import FactorCovariance
from lab.core.heads.population import Population, Spectrum


@dataclass(frozen=True)
class FactorPopulation(Population):
    """Features x = W z + u of a few latent variables, Sigma_p = W_p P W_p' + s I.

    Attributes:
        loading: W; a width p keeps its first p rows.
        latent_covariance: P = E[z z'].
        noise_variance: s, the variance of each entry of u, independent of z; positive.
        cross: E[z y'].
        target_variances: E[y_j^2] of every output.
        outputs_follow_width: whether a width p predicts the first p outputs only (the next token, as wide as the
            model) or all of them (the next state).
        residual_variances: E[Var(y_j | z)] of every output; None: the difference of `target_variances` and what z
            explains, which loses digits if z explains almost all.
    """

    loading: Float64[ndarray, "p q"]
    latent_covariance: Float64[ndarray, "q q"]
    noise_variance: float
    cross: Float64[ndarray, "q m"]
    target_variances: Float64[ndarray, " m"]
    outputs_follow_width: bool = False
    residual_variances: Float64[ndarray, " m"] | None = None

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
        return float(np.sum(known.kept * known.squared_cross))

    @override
    def squared_norm(self, width: int) -> float:
        return float(np.sum(self.at(width).spectrum.squared_coefficients))

    @override
    def spectrum(self, width: int) -> Spectrum:
        return self.at(width).spectrum

    @override
    def noise_trace(self, width: int) -> float:
        # what z leaves of y, and what x leaves of z: no difference of larger numbers
        known, num_outputs = self.at(width), self.num_outputs(width)
        if self.residual_variances is None:
            residual = self.target_trace(width) - float(np.sum(self.latent_cross[:, :num_outputs] ** 2))
        else:
            residual = float(self.residual_variances[:num_outputs].sum())
        return residual + float(np.sum(known.lost * known.squared_cross)) + known.unseen

    @override
    def dense(self, width: int) -> tuple[Float64[ndarray, "p p"], Float64[ndarray, "p m"]]:
        covariance = self.at(width).covariance
        return covariance.dense(), covariance.factor @ self.at(width).latent_coefficients

    @override
    def scaled(self, factor: float) -> "FactorPopulation":
        return replace(self, loading=self.loading * factor, noise_variance=self.noise_variance * factor**2)

    @cached_property
    def factor(self) -> Float64[ndarray, "p q"]:
        """F = W P^½ in Sigma = F F' + s I; a width keeps its first rows."""
        return self.loading @ self._roots[0]

    @cached_property
    def latent_cross(self) -> Float64[ndarray, "q m"]:
        """P^-½ E[z y'], with the pseudo-inverse where P is singular."""
        return self._roots[1]

    def at(self, width: int) -> "FactorWidth":
        """The q x q algebra of a width, cached: a sweep needs it for every draw."""
        if width not in self._known:
            covariance = FactorCovariance(self.factor[:width], self.noise_variance)
            singular, right = covariance.directions
            cross = self._reduced_cross(width)
            aligned = right.T @ cross
            squared = singular**2 + self.noise_variance
            is_seen = squared > 0
            squared_cross = np.sum(aligned**2, axis=1)
            self._known[width] = FactorWidth(
                covariance=covariance,
                latent_coefficients=covariance.shrunk(cross),
                kept=np.divide(singular**2, squared, out=np.zeros_like(squared), where=is_seen),
                lost=np.divide(self.noise_variance, squared, out=np.ones_like(squared), where=is_seen),
                squared_cross=squared_cross,
                spectrum=covariance.spectrum(cross),
                unseen=float(np.sum((cross - right @ aligned) ** 2)) if width < right.shape[0] else 0.0,
            )
        return self._known[width]

    @cached_property
    def _roots(self) -> tuple[Float64[ndarray, "q r"], Float64[ndarray, "r m"]]:
        """P^½, and P^-½ E[z y']."""
        try:
            root = linalg.cholesky(self.latent_covariance, lower=True)
        except linalg.LinAlgError:
            # a state that noise does not reach in every direction
            eigenvalues, vectors = linalg.eigh(self.latent_covariance)
            is_varying = eigenvalues > default_rank_tolerance(*self.latent_covariance.shape) * eigenvalues[-1]
            sizes, directions = np.sqrt(eigenvalues[is_varying]), vectors[:, is_varying]
            return directions * sizes, (directions / sizes).T @ self.cross
        return root, linalg.solve_triangular(root, self.cross, lower=True)

    @cached_property
    def _known(self) -> "dict[int, FactorWidth]":
        return {}

    def _reduced_cross(self, width: int) -> Float64[ndarray, "q r"]:
        cross = self.latent_cross[:, : self.num_outputs(width)]
        if cross.shape[1] <= cross.shape[0]:
            return cross
        (triangle,) = linalg.qr(cross.T, mode="r", check_finite=False)
        return np.ascontiguousarray(triangle[: cross.shape[0]].T)


@dataclass(frozen=True, slots=True)
class FactorWidth:
    """A `FactorPopulation` at one width, in the singular directions of F: k of them.

    Attributes:
        covariance: Sigma_p.
        latent_coefficients: H of least norm with B_p = F_p H, for at most q outputs with the same B B': 2,000 outputs
            cost no more than q.
        kept: the share of the variance of each direction that is signal.
        lost: the share that is noise, 1 - kept.
        squared_cross: squared correlation of the outputs with each direction, summed over outputs.
        spectrum: of Sigma_p, with B_p along its eigenvectors.
        unseen: squared correlation with the latent directions that the first p features do not reach.
    """

    covariance: FactorCovariance
    latent_coefficients: Float64[ndarray, "q r"]
    kept: Float64[ndarray, " k"]
    lost: Float64[ndarray, " k"]
    squared_cross: Float64[ndarray, " k"]
    spectrum: Spectrum
    unseen: float
