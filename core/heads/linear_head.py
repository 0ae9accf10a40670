"""A linear head fitted to frozen representations, and its error on test rows.

Ridge regression (X'X + n lambda I)^-1 X'Y; lambda = 0 is the minimum-norm least-squares head X^+ Y, which interpolates
the training rows if there are more features than rows.
"""

# Letters: n rows, p features, m outputs.

from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
from jaxtyping import Float64, Real
from numpy import ndarray

from lab.core import validation
from lab.core.errors import InputError
from lab.core.heads.decompositions import thin_svd


@dataclass(frozen=True, slots=True)
class LinearHead:
    """A fitted head: predictions are features @ weight.

    Attributes:
        weight: Bhat.
        rank: numerical rank of the training features.
        weight_norm: Frobenius norm of the weight.
    """

    weight: Float64[ndarray, "p m"]
    rank: int
    weight_norm: float

    @classmethod
    def fit(cls, features: Real[ndarray, "n p"], targets: Real[ndarray, "n m"], *, ridge: float, rtol: float) -> Self:
        """Solve the head for any n and p, rank-deficient features included.

        Args:
            features: X.
            targets: Y.
            ridge: lambda.
            rtol: fraction of the largest singular value below which one counts as zero.

        Raises:
            InputError: if rows do not match, values are not finite, ridge is negative or rtol outside [0, 1), and if
                the weights are beyond the numbers of float64.
        """
        svd = thin_svd(features, rtol=rtol)
        answers = validation.real_array("targets", targets, shape=(svd.left.shape[0], None))
        strength = validation.non_negative_number("ridge", ridge)
        # neither the gain nor the norm forms squares of them, so that any unit of features will do
        with np.errstate(over="ignore", invalid="ignore"):
            gain = 1 / (svd.singular + svd.left.shape[0] * strength / svd.singular)
            weight = svd.right.T @ (gain[:, None] * (svd.left.T @ answers))
            largest = float(np.abs(weight).max(initial=0.0))
            norm = largest * float(np.linalg.norm(weight / largest)) if largest else 0.0
        if not np.isfinite(norm):
            raise InputError(
                f"features have singular values from {svd.singular[-1]:.3g} to {svd.singular[0]:.3g}, with which the "
                "weights are beyond the numbers of float64; give features in another unit"
            )
        return cls(weight=weight, rank=svd.rank, weight_norm=norm)

    def predict(self, features: Real[ndarray, "n p"]) -> Float64[ndarray, "n m"]:
        """X Bhat.

        Raises:
            InputError: if the number of features differs from training.
        """
        return validation.real_array("features", features, shape=(None, self.weight.shape[0])) @ self.weight


class MonteCarloRisk(NamedTuple):
    """A Monte-Carlo estimate of the prediction risk, summed over outputs.

    Attributes:
        mean: mean squared error over test rows.
        standard_error: of that mean.
    """

    mean: float
    standard_error: float


def monte_carlo_risk(head: LinearHead, features: Real[ndarray, "n p"], targets: Real[ndarray, "n m"]) -> MonteCarloRisk:
    """Mean squared error on test rows: the total risk, noise included, up to its standard error.

    Raises:
        InputError: if rows do not match or there are fewer than two.
    """
    predictions = head.predict(features)
    answers = validation.real_array("targets", targets, shape=predictions.shape)
    if answers.shape[0] < 2:
        raise InputError(f"targets have {answers.shape[0]} rows; a standard error needs two or more")
    errors = np.sum((predictions - answers) ** 2, axis=1)
    return MonteCarloRisk(float(errors.mean()), float(errors.std(ddof=1) / np.sqrt(errors.size)))
