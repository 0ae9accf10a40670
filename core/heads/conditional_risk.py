"""Exact risk of a linear head given its training features, without sampling targets or a test set.

Ridge regression (X'X + n lambda I)^-1 X'Y; lambda = 0 is the minimum-norm head X^+ Y. The noise of the targets may be
identical in all rows, differ between rows, or be correlated between rows of the same sequence.
"""

# Letters: n rows, p features, m outputs, T rows of a sequence, r rank.

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Real
from numpy import ndarray

from lab.core import validation
from lab.core.errors import InputError
from lab.core.heads.decompositions import thin_svd
from lab.core.heads.factor_covariance import FactorCovariance


@dataclass(frozen=True, slots=True)
class ConditionalRisk:
    """Exact excess risk E||Bhat'x - B'x||^2 given the training features, summed over outputs.

    Attributes:
        bias: tr (D - B)' Sigma (D - B), D the mean of Bhat given the features.
        variance: the part added by noise in the training targets.
        squared_weight_norm: E||Bhat||_F^2 given the features.
        rank: numerical rank of the features.
    """

    bias: float
    variance: float
    squared_weight_norm: float
    rank: int

    @property
    def excess(self) -> float:
        """Bias plus variance."""
        return self.bias + self.variance


def conditional_risk(
    features: Real[ndarray, "n p"],
    covariance: Real[ndarray, "p p"] | FactorCovariance,
    coefficients: Real[ndarray, "p m"],
    *,
    noise_trace: float | None = None,
    row_noise: Real[ndarray, " n"] | None = None,
    block_noise: Real[ndarray, "T T"] | None = None,
    mean_targets: Real[ndarray, "n m"] | None = None,
    ridge: float,
    rtol: float,
) -> ConditionalRisk:
    """Exact risk of the head given its training features.

    With X = U diag(s) V', gains g = s / (s^2 + n lambda) and M = E[Y | X]: D = V g U' M, and the variance is
    tr(Sigma V g U' Omega U g V'), Omega the covariance of the rows' noise summed over outputs.

    Args:
        features: X.
        covariance: Sigma = E[x x']; a `FactorCovariance` where noise is so small that the sum would lose it.
        coefficients: B.
        noise_trace: tr Sigma_e, for i.i.d. noise. Give exactly one of this and the next two.
        row_noise: the noise variance of each row, summed over outputs, if it differs.
        block_noise: covariance of the noise within a sequence of T rows, summed over outputs; rows are ordered by
            sequence, and sequences are independent.
        mean_targets: E[Y | X] if it is not X B.
        ridge: lambda.
        rtol: as for `thin_svd`.

    Raises:
        InputError: if shapes do not match, or the noise is not given exactly once.
    """
    svd = thin_svd(features, rtol=rtol)
    num_rows, width = svd.left.shape[0], svd.right.shape[1]
    best = validation.real_array("coefficients", coefficients, shape=(width, None))
    strength = validation.non_negative_number("ridge", ridge)
    # no squares: any unit of features will do
    with np.errstate(over="ignore"):
        penalty = num_rows * strength / svd.singular
    gain = 1 / (svd.singular + penalty)
    noise = _noise_in_the_head(svd.left * gain, noise_trace, row_noise, block_noise)
    seen = svd.right @ best
    if mean_targets is None:
        # D - B = -(V h V'B + (I - VV') B) with the shrinkage h: no difference of larger numbers
        mean_seen, lost = (gain * svd.singular)[:, None] * seen, (penalty * gain)[:, None] * seen
    else:
        means = validation.real_array("mean_targets", mean_targets, shape=(num_rows, best.shape[1]))
        mean_seen = gain[:, None] * (svd.left.T @ means)
        lost = seen - mean_seen
    unseen = best - svd.right.T @ seen if svd.rank < width else np.zeros_like(best)
    if isinstance(covariance, FactorCovariance):
        factor_seen, factor_unseen = covariance.split(svd.right)
        bias = covariance.noise_variance * (np.sum(lost**2) + np.sum(unseen**2))
        bias += np.sum((factor_seen.T @ lost + factor_unseen.T @ unseen) ** 2)
        weighted = covariance.noise_variance * np.trace(noise) + np.sum((factor_seen.T @ noise) * factor_seen.T)
    else:
        sigma = validation.real_array("covariance", covariance, shape=(width, width))
        error = svd.right.T @ lost + unseen
        bias = np.sum(error * (sigma @ error))
        weighted = np.sum((svd.right @ sigma @ svd.right.T) * noise)
    return ConditionalRisk(
        bias=float(bias),
        variance=float(weighted),
        squared_weight_norm=float(np.sum(mean_seen**2) + np.trace(noise)),
        rank=svd.rank,
    )


def _noise_in_the_head(
    gained: Float64[ndarray, "n r"],
    noise_trace: float | None,
    row_noise: Real[ndarray, " n"] | None,
    block_noise: Real[ndarray, "T T"] | None,
) -> Float64[ndarray, "r r"]:
    """g U' Omega U g."""
    num_rows = gained.shape[0]
    if sum(noise is not None for noise in (noise_trace, row_noise, block_noise)) != 1:
        raise InputError("give exactly one of noise_trace, row_noise and block_noise")
    if noise_trace is not None:
        return validation.non_negative_number("noise_trace", noise_trace) * (gained.T @ gained)
    if row_noise is not None:
        weights = validation.real_array("row_noise", row_noise, shape=(num_rows,))
        if weights.min() < 0:
            row = int(weights.argmin())
            raise InputError(f"row_noise[{row}]={weights[row]:g} is a negative variance; give 0 or more")
        return gained.T @ (weights[:, None] * gained)
    assert block_noise is not None, "one of the three is given"
    block = validation.covariance_matrix("block_noise", block_noise)
    length = block.shape[0]
    if num_rows % length:
        raise InputError(
            f"block_noise is for sequences of {length} rows, which do not divide {num_rows} rows; give whole sequences"
        )
    by_sequence = gained.reshape(num_rows // length, length, -1)
    return gained.T @ (block @ by_sequence).reshape(gained.shape)
