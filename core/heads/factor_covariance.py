"""A covariance Sigma = F F' + s I as its parts.

With little noise s, the sum itself has lost s: every use of it goes through F and s separately, and is as accurate as
for a matrix of the condition number of Sigma^½.
"""

# Letters: p features, k factors, r = min(p, k), m outputs.

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64
from numpy import ndarray
from scipy import linalg

from lab.core.heads.population import Spectrum


class Directions(NamedTuple):
    """The part of F = U diag(singular) right' that does not grow with p.

    Attributes:
        singular: singular values of F, descending.
        right: orthonormal columns.
    """

    singular: Float64[ndarray, " r"]
    right: Float64[ndarray, "k r"]


@dataclass(frozen=True, eq=False)
class FactorCovariance:
    """Sigma = F F' + s I.

    Attributes:
        factor: F.
        noise_variance: s.
    """

    factor: Float64[ndarray, "p k"]
    noise_variance: float

    @cached_property
    def directions(self) -> Directions:
        """The singular values and right singular vectors of F: all that solving with Sigma needs."""
        factor, num_factors = self.factor, self.factor.shape[1]
        if factor.shape[0] > num_factors:
            (triangle,) = linalg.qr(factor, mode="r", check_finite=False)
            factor = triangle[:num_factors]
        _, singular, right = linalg.svd(factor, full_matrices=False, check_finite=False)
        return Directions(singular, np.ascontiguousarray(right.T))

    def shrunk(self, targets: Float64[ndarray, "k m"]) -> Float64[ndarray, "k m"]:
        """H with F H = Sigma^-1 F `targets`, of least norm."""
        singular, right = self.directions
        squared = singular**2 + self.noise_variance
        # without noise, directions that F does not have stay zero
        inverse = np.divide(1.0, squared, out=np.zeros_like(squared), where=squared > 0)
        return right @ (inverse[:, None] * (right.T @ targets))

    def spectrum(self, targets: Float64[ndarray, "k m"]) -> Spectrum:
        """Eigenvalues of Sigma, and the head Sigma^-1 F `targets` along each eigenvector."""
        singular, right = self.directions
        eigenvalues, squared_coefficients = (
            np.full(self.factor.shape[0], self.noise_variance),
            np.zeros(len(self.factor)),
        )
        eigenvalues[: singular.size] += singular**2
        along = np.sum((right.T @ targets) ** 2, axis=1)
        inverse = np.divide(singular, eigenvalues[: singular.size], out=np.zeros_like(singular), where=singular > 0)
        squared_coefficients[: singular.size] = inverse**2 * along
        return Spectrum(eigenvalues, squared_coefficients)

    def split(self, right: Float64[ndarray, "r p"]) -> tuple[Float64[ndarray, "r k"], Float64[ndarray, "p k"]]:
        """V F and (I - V'V) F for orthonormal rows V.

        With little noise, F'(D - B) of a minimum-norm head is the product of two parts of the order of s^½: applying
        I - V'V on both sides keeps their digits, where F' times the difference would lose them.
        """
        seen = right @ self.factor
        if right.shape[0] == right.shape[1]:
            return seen, np.zeros_like(self.factor)
        return seen, self.factor - right.T @ seen

    def dense(self) -> Float64[ndarray, "p p"]:
        """Sigma."""
        covariance = self.factor @ self.factor.T
        covariance[np.diag_indices_from(covariance)] += self.noise_variance
        return covariance
