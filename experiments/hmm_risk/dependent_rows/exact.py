"""Exact risk of a linear head on dependent rows, given the features, without a test set or asymptotics.

Given all features X of N sequences of T tokens the targets are Gaussian with means M = E[Y | X] and covariance
I_N ⊗ Omega (summed over outputs). The head VY, with V = X⁺ for the minimum-norm head and V = (X'X + n λ I)^-1 X' for
ridge regression, then has, over the targets alone,

    bias = ‖Sigma^½ (VM - B)‖²,    variance = tr Sigma V (I_N ⊗ Omega) V'.

On independent rows M = XB, and without ridge the bias is 0 below p = n (Luo, Wang and Huang, arXiv 2410.00699; Hastie,
Montanari, Rosset and Tibshirani, arXiv 1903.08560). Here neighbouring tokens carry information about a row's target
that its own features lack: the bias is positive on both sides of p = n, and the covariance of the errors enters through
its trace over outputs (as in Lee and Lee, arXiv 2305.12883).
"""

# Letters: w widths, n rows in the order (sequence, token), N sequences, T tokens, d features of the widest model,
# p width.

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Real
from numpy import ndarray
from scipy import linalg

from lab.core import validation
from lab.core.errors import InputError
from lab.experiments.hmm_risk.dependent_rows.token_rows import ExpectedTargets, TokenRows

# A Gram matrix squares the condition number of the features: above this for XX' + n λ I, risks would lose more than
# eight of sixteen digits, so the features are decomposed directly.
_LARGEST_CONDITION = 1e8


@dataclass(frozen=True, slots=True)
class DependentRisk:
    """Risk given the features, at every width, summed over outputs.

    Attributes:
        bias: the risk with noise-free targets E[Y | X].
        variance: the part added by the targets' deviation from E[Y | X].
        squared_weight_norm: E[‖VY‖² | X].
    """

    bias: Float64[ndarray, " w"]
    variance: Float64[ndarray, " w"]
    squared_weight_norm: Float64[ndarray, " w"]

    @property
    def excess(self) -> Float64[ndarray, " w"]:
        """Bias plus variance: the distance from the best linear head on one token."""
        return self.bias + self.variance


def dependent_risk_given_features(
    rows: TokenRows, features: Real[ndarray, "n d"], widths: Sequence[int], *, ridge: float = 0.0
) -> DependentRisk:
    """Exact conditional risk at nested widths (formulas at the top of this file).

    One QR decomposition serves all p ≤ n; Gram matrices XX' are accumulated over the widths p > n. Quantities that do
    not depend on the features are cached in `rows`.

    Args:
        rows: the distribution of the rows.
        features: in the order (sequence, token), of whole sequences; they must have full rank, as noisy features do.
        widths: p, in ascending order; a width keeps the first p columns.
        ridge: λ; 0 for the minimum-norm head.

    Raises:
        InputError: if the rows are not whole sequences, a width is out of range or order, or the ridge is negative.
    """
    matrix = validation.real_array("features", features, shape=(None, None))
    num_rows, num_columns = matrix.shape
    if num_rows == 0 or num_rows % rows.length:
        raise InputError(f"features has {num_rows} rows; give whole sequences, a multiple of {rows.length}")
    if len(widths) == 0 or list(widths) != sorted(set(widths)):
        raise InputError(f"widths={list(widths)} must ascend without repetition, and hold one or more; sort them")
    if widths[-1] > num_columns:
        raise InputError(f"widths contains {widths[-1]}, but features has {num_columns} columns; add features")
    penalty = num_rows * validation.non_negative_number("ridge", ridge)
    narrow = [width for width in widths if width <= num_rows]
    if narrow:
        orthonormal, triangle = _penalised_qr(matrix[:, : narrow[-1]], penalty)
    gram, num_summed = penalty * np.eye(num_rows), 0
    parts = []
    for width, targets in zip(widths, rows.expected_targets(matrix, widths), strict=True):
        if width <= num_rows:
            head_map = linalg.solve_triangular(triangle[:width, :width], orthonormal[:, :width].T)
            parts.append(_risk_of_map(rows, head_map, targets, is_unbiased=penalty == 0))
            continue
        added = matrix[:, num_summed:width]
        gram += added @ added.T
        num_summed = width
        try:
            factor = linalg.cholesky(gram, lower=True)
        except linalg.LinAlgError:
            factor = None
        if factor is None or _condition(factor, gram) > _LARGEST_CONDITION:
            columns, corner = _penalised_qr(matrix[:, :width].T, penalty)
            head_map = linalg.solve_triangular(corner, columns.T).T
            parts.append(_risk_of_map(rows, head_map, targets, is_unbiased=False))
        else:
            parts.append(_risk_from_gram(rows, matrix[:, :width], factor, penalty, targets))
    bias, variance, squared_weight_norm = np.array(parts).T
    return DependentRisk(bias, variance, squared_weight_norm)


def _risk_of_map(
    rows: TokenRows, head_map: Float64[ndarray, "p n"], targets: ExpectedTargets, *, is_unbiased: bool
) -> tuple[float, float, float]:
    """Bias, variance and squared norm of the head V Y; `is_unbiased` if V X = I."""
    width = head_map.shape[0]
    mean_head = head_map @ targets.given_sequence
    if is_unbiased:
        # V X B = B, so apply V to the difference of the means: it is exactly zero where they agree
        error = head_map @ (targets.given_sequence - targets.given_token)
    else:
        error = mean_head - rows.coefficients(width)
    noise_rows = _times_noise(head_map, rows.sequence_noise(width))
    factor = rows.factor(width)
    noise_norm = float(np.sum(head_map * noise_rows))
    bias = rows.noise_variance * _square(error) + _square(factor.T @ error)
    variance = rows.noise_variance * noise_norm + float(np.sum((factor.T @ head_map) * (factor.T @ noise_rows)))
    return bias, variance, _square(mean_head) + noise_norm


def _risk_from_gram(
    rows: TokenRows,
    features: Float64[ndarray, "n p"],
    lower: Float64[ndarray, "n n"],
    penalty: float,
    targets: ExpectedTargets,
) -> tuple[float, float, float]:
    """The same for p > n from the Cholesky factor of K = XX' + n λ I, without a p x n matrix.

    V = X'K^-1, so that V'V = K^-1 - n λ K^-2, and with D = K^-1 M the head's mean is X'D.
    """
    width, num_rows = features.shape[1], features.shape[0]
    coefficients, factor, noise = rows.coefficients(width), rows.factor(width), rows.sequence_noise(width)
    inverse = linalg.cho_solve((lower, True), np.eye(num_rows), check_finite=False)
    duals = linalg.cho_solve((lower, True), targets.given_sequence, check_finite=False)
    mean_norm = float(np.sum(duals * targets.given_sequence)) - penalty * _square(duals)
    noise_inverse = _times_noise(inverse, noise)
    noise_norm = float(np.trace(noise_inverse)) - penalty * float(np.sum(inverse * noise_inverse))
    seen = factor.T @ features.T
    seen_map = seen @ inverse
    error_norm = mean_norm - 2 * float(np.sum(duals * targets.given_token)) + _square(coefficients)
    bias = rows.noise_variance * error_norm + _square(seen @ duals - factor.T @ coefficients)
    variance = rows.noise_variance * noise_norm + float(np.sum(seen_map * _times_noise(seen_map, noise)))
    return bias, variance, mean_norm + noise_norm


def _times_noise(matrix: Float64[ndarray, "k n"], noise: Float64[ndarray, "T T"]) -> Float64[ndarray, "k n"]:
    """Z (I_N ⊗ Omega)."""
    return (np.ascontiguousarray(matrix).reshape(-1, noise.shape[0]) @ noise).reshape(matrix.shape)


def _penalised_qr(
    matrix: Float64[ndarray, "n p"], penalty: float
) -> tuple[Float64[ndarray, "n p"], Float64[ndarray, "p p"]]:
    """Z (rows of Q) and R with X = ZR and X'X + penalty I = R'R; the first columns are those of a narrower matrix."""
    if penalty == 0:
        return np.linalg.qr(matrix)
    orthonormal, triangle = np.linalg.qr(np.vstack([matrix, np.sqrt(penalty) * np.eye(matrix.shape[1])]))
    return orthonormal[: matrix.shape[0]], triangle


def _condition(lower: Float64[ndarray, "n n"], gram: Float64[ndarray, "n n"]) -> float:
    """LAPACK's estimate of the condition number in the 1-norm, from the Cholesky factor."""
    reciprocal, _ = linalg.lapack.dpocon(lower, np.abs(gram).sum(axis=0).max(), uplo="L")
    return 1 / reciprocal if reciprocal > 0 else np.inf


def _square(matrix: Float64[ndarray, "..."]) -> float:
    return float(np.sum(matrix**2))
