"""Leave-one-context-out error of linear smoothers: of each context's rows under the head that all others give.

With the smoother S, a context's residuals under the head fitted to all other contexts are (I - S_CC)^-1 (Y - S Y)_C:
one small solve for each context in place of a fit.
"""

# Letters: n rows, m outputs, k columns, g contexts, T rows of a context.

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

# of the largest eigenvalue of all blocks: below it, the smallest one is taken for 0
_LEAST_RECIPROCAL = 1e-10


def contexts_left_out(
    basis: Float64[ndarray, "n k"],
    head: Float64[ndarray, "k m"],
    targets: Float64[ndarray, "n m"],
    widths: Sequence[int],
    rows_per_context: int,
) -> Float64[ndarray, " k"]:
    """Errors of the smoothers S_p = Q_p Q_p' with fits Q_p Z_p, for some numbers p of leading columns.

    Args:
        basis: Q.
        head: Z.
        targets: Y.
        widths: p.
        rows_per_context: T; the rows of a context follow each other.

    Returns:
        Mean squared errors, summed over outputs, at p - 1; NaN for all other widths, and where a context alone
        determines a direction, up to rounding.
    """
    size = rows_per_context
    blocks = np.broadcast_to(np.eye(size), (basis.shape[0] // size, size, size)).copy()
    residual = targets.copy()
    found = np.full(basis.shape[1], np.nan)
    before = 0
    for width in sorted(widths):
        new = basis[:, before:width]
        by_context = new.reshape(-1, size, width - before)
        blocks -= by_context @ by_context.transpose(0, 2, 1)
        residual -= new @ head[before:width]
        found[width - 1] = _mean_square(blocks, residual)
        before = width
    return found


def context_left_out(rest: Float64[ndarray, "n n"], residual: Float64[ndarray, "n m"], rows_per_context: int) -> float:
    """The error of one smoother, from I - S and the residuals, or the same multiple of both; NaN as above."""
    places = np.arange(len(rest)).reshape(-1, rows_per_context)
    return _mean_square(rest[places[:, :, None], places[:, None, :]], residual)


def _mean_square(blocks: Float64[ndarray, "g T T"], residual: Float64[ndarray, "n m"]) -> float:
    try:
        values = np.linalg.eigvalsh(blocks)
        # rounding is of the size of the largest block: one that is small in all directions is as uncertain
        if not values.min() > _LEAST_RECIPROCAL * values.max():
            return np.nan
        errors = np.linalg.solve(blocks, residual.reshape(*blocks.shape[:2], -1))
    except np.linalg.LinAlgError:
        return np.nan
    return float(np.sum(errors**2)) / residual.shape[0]
