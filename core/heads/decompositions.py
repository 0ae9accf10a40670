"""Decompositions shared by all heads: singular values with an explicit tolerance, one decomposition for all ridges.

Everything is in float64. Near p = n the smallest singular values approach zero and dominate the result, so X'X is never
formed for the minimum-norm head: that would square the condition number.
"""

# Letters: n rows, p features, k = min(n, p) or columns of a factor, r rank.

import warnings
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Real
from numpy import ndarray
from scipy import linalg
from scipy.linalg import lapack

from lab.core import validation
from lab.core.errors import InputError

# A kept singular value below this fraction of the largest is probably rounding error.
_SMALL_BUT_KEPT = 1e-8

# A Gram matrix gives squared singular values to within machine epsilon times its norm: if every n lambda is above this
# fraction of it, filtered quantities keep ten digits.
_GRAM_IS_ENOUGH = 1e-6

# ||R||_F^2 ||R^-1||_F^2 beyond which columns are nearly dependent
_LARGEST_CONDITION = 1e20


class Svd(NamedTuple):
    """X = left diag(singular) right, truncated to the numerical rank.

    Attributes:
        left: orthonormal columns.
        singular: descending, all above rtol times the first.
        right: orthonormal rows.
    """

    left: Float64[ndarray, "n r"]
    singular: Float64[ndarray, " r"]
    right: Float64[ndarray, "r p"]

    @property
    def rank(self) -> int:
        """r."""
        return self.singular.size


class RightSpectrum(NamedTuple):
    """The right side of a decomposition of X: X'X = right' diag(singular^2) right.

    Attributes:
        singular: above the tolerance.
        right: orthonormal rows.
    """

    singular: Float64[ndarray, " r"]
    right: Float64[ndarray, "r p"]


def default_rank_tolerance(num_rows: int, num_features: int) -> float:
    """max(n, p) times machine epsilon: the size of a zero singular value after rounding (SciPy's choice too)."""
    return max(num_rows, num_features) * float(np.finfo(np.float64).eps)


def thin_svd(features: Real[ndarray, "n p"], *, rtol: float) -> Svd:
    """Singular value decomposition up to the numerical rank.

    Warns if a singular value below 1e-8 times the largest is kept.

    Raises:
        InputError: if the features are not a finite real matrix, or rtol is outside [0, 1).
    """
    matrix = validation.real_array("features", features, shape=(None, None))
    tolerance = validation.number_in_unit_interval("rtol", rtol)
    if 0 in matrix.shape:
        raise InputError(f"features have shape {matrix.shape}; give at least one row and one column")
    try:
        left, singular, right = linalg.svd(matrix, full_matrices=False, check_finite=False)
    except np.linalg.LinAlgError:
        # divide and conquer rarely fails to converge where plain QR iteration succeeds
        left, singular, right = linalg.svd(matrix, full_matrices=False, check_finite=False, lapack_driver="gesvd")
    rank = int(np.count_nonzero(singular > tolerance * singular[0]))
    if rank and singular[rank - 1] < _SMALL_BUT_KEPT * singular[0]:
        warnings.warn(
            f"a singular value of {singular[rank - 1] / singular[0]:.1e} times the largest counts as signal; if it is "
            f"rounding, raise rtol={tolerance:.1e}",
            stacklevel=2,
        )
    return Svd(left[:, :rank], singular[:rank], right[:rank])


def num_independent(triangle: Float64[ndarray, "k k"]) -> int:
    """How many leading columns are far from linearly dependent, from their upper triangular factor."""
    diagonal = np.abs(np.diag(triangle))
    kept = int(np.argmax(diagonal == 0)) if (diagonal == 0).any() else diagonal.size
    if kept == 0:
        return 0
    inverse, _ = lapack.dtrtri(triangle[:kept, :kept])
    with np.errstate(over="ignore", invalid="ignore"):
        squares = np.cumsum(np.sum(triangle[:kept, :kept] ** 2, axis=0)) * np.cumsum(np.sum(inverse**2, axis=0))
    is_bad = ~(squares < _LARGEST_CONDITION)
    return int(np.argmax(is_bad)) if is_bad.any() else kept


def right_spectrum(features: Real[ndarray, "n p"], *, smallest_ridge: float, rtol: float) -> RightSpectrum:
    """Singular values and right vectors, from the smaller Gram matrix if every ridge strength is large enough.

    Args:
        features: X.
        smallest_ridge: the smallest lambda of (X'X + n lambda I)^-1 that they will be used with.
        rtol: fraction of the largest singular value below which one counts as zero.

    Raises:
        InputError: as `thin_svd`.
    """
    # the trace is a cheap upper bound of the largest eigenvalue; if it is not finite, the SVD route raises the error
    trace = float(np.sum(features**2))
    if not smallest_ridge * features.shape[0] > _GRAM_IS_ENOUGH * trace or 0 in features.shape:
        svd = thin_svd(features, rtol=rtol)
        return RightSpectrum(svd.singular, svd.right)
    squared, vectors = linalg.eigh(_smaller_gram(features), check_finite=False, overwrite_a=True, driver="evd")
    # under a ridge of this size, the rounding error of a zero is harmless
    kept = squared > max(rtol**2, np.finfo(np.float64).eps * max(features.shape)) * squared[-1]
    singular = np.sqrt(squared[kept])
    if features.shape[0] < features.shape[1]:
        return RightSpectrum(singular, (vectors[:, kept] / singular).T @ features)
    return RightSpectrum(singular, vectors[:, kept].T)


def _smaller_gram(features: Float64[ndarray, "n p"]) -> Float64[ndarray, "k k"]:
    return features @ features.T if features.shape[0] < features.shape[1] else features.T @ features
