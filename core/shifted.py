"""Solutions of (K + mu I) Z = Y for many shifts mu of one symmetric K: one tridiagonal form, and few solutions.

K = Q T Q' with T tridiagonal costs as much as a few Cholesky factors, and every shift after it next to nothing. And the
inverses 1 / (s + mu) are smooth in mu: those of a few shifts span the others to rounding (an interpolative
decomposition, Cheng et al. 2005, SIAM J. Sci. Comput. 26), so that what is done with the solutions afterwards, such as
a product with all features, is done for these few.
"""

# Letters: k rows of K, m columns of Y, p columns of F, L shifts, R shifts that are solved for.

import ctypes
from collections.abc import Callable
from functools import cache
from typing import NamedTuple, cast

import numpy as np
from jaxtyping import Float64, Int
from numpy import ndarray
from scipy import linalg
from scipy.linalg import lapack

from lab.core.native.build import load_native

# largest share of a filter that the others may fail to span
_SPAN_TOLERANCE = 1e-12
# Filters are compared on a grid of eigenvalues, so many for each doubling of the distance from the nearest pole, which
# is at minus the smallest shift: between them they are smooth.
_POINTS_PER_OCTAVE = 16
# how far that grid may reach beyond the eigenvalues, as a share of the smallest shift
_RANGE_TOLERANCE = 1e-3


class ShiftedSolutions(NamedTuple):
    """Some solutions, and the way from them to the others.

    Attributes:
        solved: Z of the shifts that were solved for, side by side.
        chosen: which those are, in ascending order.
        mixing: for each of the others, in order, the weights of `solved` that add up to it.
    """

    solved: Float64[ndarray, "k R m"]
    chosen: Int[ndarray, " R"]
    mixing: Float64[ndarray, "R L-R"]

    def times(self, factor: Float64[ndarray, "k p"] | None = None) -> Float64[ndarray, "L m p"]:
        """Z' of every shift, or Z' F, for the price of those that were solved for."""
        size, num_solved, num_columns = self.solved.shape
        rows = self.solved.reshape(size, -1).T
        every = np.empty((sum(self.mixing.shape), num_columns, size if factor is None else factor.shape[1]))
        # at the end of the result first, and from there, one after the other, to their places: no copy of all of them
        last = every[-num_solved:]
        if factor is None:
            last.reshape(rows.shape)[:] = rows
        else:
            np.matmul(rows, factor, out=last.reshape(rows.shape[0], -1))
        if self.mixing.shape[1] > 0:
            others = self.mixing.T @ last.reshape(num_solved, -1)
            for place, solution in zip(self.chosen, last, strict=True):
                every[place] = solution
            every[np.delete(np.arange(every.shape[0]), self.chosen)] = others.reshape(-1, *every.shape[1:])
        return every


def solve_shifted(
    matrix: Float64[ndarray, "k k"], right: Float64[ndarray, "k m"], shifts: Float64[ndarray, " L"]
) -> ShiftedSolutions:
    """(K + mu I)^-1 Y for a positive semi-definite K and positive shifts."""
    size, num_columns = right.shape
    if size == 1:
        # the wrappers of LAPACK take no empty array beside the diagonal
        solved = right[:, None] / (matrix + shifts)[..., None]
        return ShiftedSolutions(solved, np.arange(shifts.size), np.empty((shifts.size, 0)))
    basis, diagonal, beside = _tridiagonal(matrix)
    # as exact as the distance from the nearest pole needs it
    eigenvalues = _eigenvalue_range(diagonal, beside, tolerance=_RANGE_TOLERANCE * float(shifts.min()))
    chosen, mixing = _spanning(eigenvalues, shifts)
    turned = np.array(right, order="C")
    basis.apply(turned, transposed=True)
    solved = np.empty((size, chosen.size, num_columns))
    solved[:] = turned[:, None]
    _solve_tridiagonal(diagonal, beside, shifts[chosen], solved)
    basis.apply(solved.reshape(size, -1), transposed=False)
    return ShiftedSolutions(solved, chosen, mixing)


class _Basis(NamedTuple):
    """Q as the reflections that it is made of: written out it would cost as much again as a product with it.

    Attributes:
        reflectors: as of a QR decomposition, whose first column reflects nothing.
        scales: of the reflectors.
    """

    reflectors: Float64[ndarray, "k k"]
    scales: Float64[ndarray, " k"]

    def apply(self, columns: Float64[ndarray, "k c"], *, transposed: bool) -> None:
        """Overwrite columns, contiguous, with Q columns or Q' columns."""
        num_columns = columns.shape[1]
        # the transposed view is in LAPACK's order; 65 x 64 is what it keeps beside 64 rows of every column
        lapack.dormqr(
            "R",
            "N" if transposed else "T",
            self.reflectors,
            self.scales,
            columns.T,
            64 * num_columns + 65 * 64,
            overwrite_c=1,
        )


def _tridiagonal(
    matrix: Float64[ndarray, "k k"],
) -> tuple[_Basis, Float64[ndarray, " k"], Float64[ndarray, " k-1"]]:
    """Q, and the diagonal of T and what is beside it."""
    size = matrix.shape[0]
    # a column in front: seen from there, the reflectors, which begin below the diagonal, begin on it
    columns = np.empty((size, size + 1), order="F")
    columns[:, 0] = 0
    # of a symmetric matrix the same, and in LAPACK's order
    columns[:, 1:] = matrix.T
    _, diagonal, beside, scales, _ = lapack.dsytrd(columns[:, 1:], lower=1, lwork=64 * size, overwrite_a=1)
    return _Basis(columns[:, :size], np.concatenate([[0.0], scales])), diagonal, beside


def _solve_tridiagonal(
    diagonal: Float64[ndarray, " k"],
    beside: Float64[ndarray, " k-1"],
    shifts: Float64[ndarray, " R"],
    columns: Float64[ndarray, "k R m"],
) -> None:
    """Overwrite the columns of each shift with (T + mu I)^-1 of them."""
    compiled = _compiled()
    if compiled is not None:
        arrays = (diagonal, beside, np.ascontiguousarray(shifts), columns)
        compiled(*columns.shape, *(array.ctypes.data for array in arrays))
        return
    for number, shift in enumerate(shifts):
        factor, multipliers, _ = lapack.dpttrf(diagonal + shift, beside)
        columns[:, number], _ = lapack.dpttrs(factor, multipliers, columns[:, number])


@cache
def _compiled() -> Callable[..., None] | None:
    library = load_native("tridiagonal.cpp").library
    if library is None:
        return None
    loop = library.solve_tridiagonal
    loop.argtypes = [ctypes.c_int64] * 3 + [ctypes.c_void_p] * 4
    loop.restype = None
    return cast("Callable[..., None]", loop)


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
) -> tuple[Int[ndarray, " R"], Float64[ndarray, "R L-R"]]:
    """The shifts to solve for, and all other filters 1 / (s + mu) as combinations of theirs."""
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
    ascending = np.argsort(order[:rank])
    # each filter is divided by its size, so that what adds up to it is multiplied with that
    others = order[rank:]
    shares = linalg.solve_triangular(triangle[:rank, :rank], triangle[:rank, rank:])[ascending]
    chosen = order[:rank][ascending]
    return chosen, (shares * sizes[others] / sizes[chosen, None])[:, np.argsort(others)]
