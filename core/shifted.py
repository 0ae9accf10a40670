"""Solutions of (K + mu I) Z = Y for many shifts mu of one symmetric K: one tridiagonal form, and few solutions.

K = Q T Q' with T tridiagonal costs as much as a few Cholesky factors, and every shift after it next to nothing. And the
inverses 1 / (s + mu) are smooth in mu: those of a few shifts span the others to rounding (an interpolative
decomposition, Cheng et al. 2005, SIAM J. Sci. Comput. 26), so that what is done with the solutions afterwards, such as
a product with all features, is done for these few.
"""

# Letters: k rows of K, m columns of Y, L shifts, R shifts that are solved for.

from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int
from numpy import ndarray
from scipy import linalg
from scipy.linalg import lapack

# largest share of a filter that the others may fail to span
_SPAN_TOLERANCE = 1e-12
# Filters are compared on a grid of eigenvalues, so many for each doubling of the distance from the nearest pole, which
# is at minus the smallest shift: between them they are smooth.
_POINTS_PER_OCTAVE = 16
# how far that grid may reach beyond the eigenvalues, as a share of the smallest shift
_RANGE_TOLERANCE = 1e-3


class ShiftedSolutions(NamedTuple):
    """Some solutions, and the way from them to all: Z_l = sum_r mixing[r, l] solved[r]'.

    Attributes:
        solved: Z' of the shifts that were solved for.
        mixing: the identity where all were.
    """

    solved: Float64[ndarray, "R m k"]
    mixing: Float64[ndarray, "R L"]


def solve_shifted(
    matrix: Float64[ndarray, "k k"], right: Float64[ndarray, "k m"], shifts: Float64[ndarray, " L"]
) -> ShiftedSolutions:
    """(K + mu I)^-1 Y for a positive semi-definite K and positive shifts. K may be overwritten."""
    if matrix.size == 1:
        # the wrappers of LAPACK take no empty array beside the diagonal
        return ShiftedSolutions((right / (matrix + shifts[:, None]))[..., None], np.eye(shifts.size))
    basis, diagonal, beside = _tridiagonal(matrix)
    # as exact as the distance from the nearest pole needs it
    eigenvalues = _eigenvalue_range(diagonal, beside, tolerance=_RANGE_TOLERANCE * float(shifts.min()))
    chosen, mixing = _spanning(eigenvalues, shifts)
    solved = np.tile(right.T @ basis, (chosen.size, 1, 1))
    for solution, shift in zip(solved, shifts[chosen], strict=True):
        factor, multipliers, _ = lapack.dpttrf(diagonal + shift, beside, overwrite_d=1)
        # in place: the transposed view is in LAPACK's order
        lapack.dpttrs(factor, multipliers, solution.T, overwrite_b=1)
    return ShiftedSolutions((solved.reshape(-1, diagonal.size) @ basis.T).reshape(solved.shape), mixing)


def _tridiagonal(
    matrix: Float64[ndarray, "k k"],
) -> tuple[Float64[ndarray, "k k"], Float64[ndarray, " k"], Float64[ndarray, " k-1"]]:
    """Q, and the diagonal of T and what is beside it."""
    size = matrix.shape[0]
    # the transposed view is in LAPACK's order and, of a symmetric matrix, the same
    reflectors, diagonal, beside, scales, _ = lapack.dsytrd(matrix.T, lower=1, lwork=64 * size, overwrite_a=1)
    basis, _ = lapack.dorghr(reflectors, scales, lwork=64 * size, overwrite_a=1)
    return basis, diagonal, beside


def _eigenvalue_range(
    diagonal: Float64[ndarray, " k"], beside: Float64[ndarray, " k-1"], *, tolerance: float
) -> tuple[float, float]:
    """What no eigenvalue of T is below and none above, by at most twice the tolerance."""
    low, high = (
        float(
            linalg.eigvalsh_tridiagonal(
                diagonal, beside, select="i", select_range=(i, i), check_finite=False, tol=tolerance
            )[0]
        )
        for i in (0, diagonal.size - 1)
    )
    return low - tolerance, high + tolerance


def _spanning(
    eigenvalues: tuple[float, float], shifts: Float64[ndarray, " L"]
) -> tuple[Int[ndarray, " R"], Float64[ndarray, "R L"]]:
    """The shifts to solve for, and all filters 1 / (s + mu) as combinations of theirs."""
    smallest, largest = shifts.min(), shifts.max()
    # a negative eigenvalue is a rounded zero
    nearest, farthest = (max(eigenvalue, 0.0) + smallest for eigenvalue in eigenvalues)
    num_points = _POINTS_PER_OCTAVE * (1 + int(np.ceil(np.log2(farthest / nearest))))
    grid = np.geomspace(nearest, farthest, num_points) - smallest
    # weights that make every filter about 1 in the middle of the shifts, so that none is lost beside another
    # (two roots: the product of the sums may leave the range of floats)
    filters = (np.sqrt(grid + smallest) * np.sqrt(grid + largest))[:, None] / (grid[:, None] + shifts)
    sizes = np.linalg.norm(filters, axis=0)
    triangle, order = linalg.qr(filters / sizes, mode="r", pivoting=True, check_finite=False)
    pivots = np.abs(np.diag(triangle))
    rank = int(np.count_nonzero(pivots > _SPAN_TOLERANCE * pivots[0]))
    if rank == shifts.size:
        return np.arange(rank), np.eye(rank)
    chosen = order[:rank]
    mixing = np.zeros((rank, shifts.size))
    mixing[np.arange(rank), chosen] = 1
    mixing[:, order[rank:]] = linalg.solve_triangular(triangle[:rank, :rank], triangle[:rank, rank:])
    return chosen, mixing * sizes / sizes[chosen, None]
