"""Leave-one-context-out error of linear smoothers: of each context's rows under the head that all others give.

With the smoother S and A = I - S, a context's residuals under the head fitted to all other contexts are
u_C = A_CC^-1 (A Y)_C: one small solve for each context in place of a fit.

That head has n - T rows. Without ridge its risk may be several times that of n rows where p is near n, which the ratio
of generalized cross-validation (GCV) of all rows to its mean over contexts left out takes off: with W = A Y, the rows
of R, all but C, give A_R = A_RR - A_RC A_CC^-1 A_CR and W_R = A_R Y_R, so that

    tr A_R = tr A - tr A_CC^-1 (A^2)_CC,    |W_R|^2 = |W|^2 - 2 tr u_C'(A W)_C + tr u_C'(A^2)_CC u_C.

Both errors of GCV, that rows of a context are no independent ones, nearly cancel in the ratio.
"""

# Letters: n rows, m outputs, k columns, g contexts, T rows of a context.

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

# of the largest eigenvalue of all blocks: below it, the smallest one is taken for 0
_LEAST_RECIPROCAL = 1e-10
# of tr A: below it, the rows of all other contexts are fitted exactly
_LEAST_TRACE = 1e-9


def contexts_left_out(
    basis: Float64[ndarray, "n k"],
    head: Float64[ndarray, "k m"],
    targets: Float64[ndarray, "n m"],
    widths: Sequence[int],
    rows_per_context: int,
    *,
    is_projection: bool,
) -> Float64[ndarray, " k"]:
    """Errors of the smoothers S_p = Q_p Q_p' with fits Q_p Z_p, for some numbers p of leading columns.

    Args:
        basis: Q.
        head: Z.
        targets: Y.
        widths: p.
        rows_per_context: T; the rows of a context follow each other.
        is_projection: whether S is one, as without ridge; its error is then that of a head of n rows.

    Returns:
        Mean squared errors, summed over outputs, at p - 1; NaN for all other widths, and where a context alone
        determines a direction, up to rounding.
    """
    size, num_rows = rows_per_context, basis.shape[0]
    blocks = np.broadcast_to(np.eye(size), (num_rows // size, size, size)).copy()
    residual = targets.copy()
    found = np.full(basis.shape[1], np.nan)
    before = 0
    for width in sorted(widths):
        new = basis[:, before:width]
        by_context = new.reshape(-1, size, width - before)
        blocks -= by_context @ by_context.transpose(0, 2, 1)
        residual -= new @ head[before:width]
        before = width
        left = _solved(blocks, residual)
        if left is None:
            continue
        found[width - 1] = float(np.sum(left**2)) / num_rows
        if is_projection:
            # A A = A
            free = num_rows - width
            less = np.sum(left * residual.reshape(left.shape), axis=(1, 2))
            traces = np.full(less.size, float(free - size))
            found[width - 1] *= _growth(float(np.sum(residual**2)), less, float(free), traces, num_rows)
    return found


def context_left_out(
    rest: Float64[ndarray, "n n"], residual: Float64[ndarray, "n m"], rows_per_context: int, *, of_all_rows: bool
) -> float:
    """The error of one smoother, from A = I - S and A Y, or the same multiple of both; NaN as above.

    With `of_all_rows`, it is that of a head of n rows, as above without ridge.
    """
    num_rows = len(rest)
    places = np.arange(num_rows).reshape(-1, rows_per_context)
    blocks = rest[places[:, :, None], places[:, None, :]]
    left = _solved(blocks, residual)
    if left is None:
        return np.nan
    error = float(np.sum(left**2)) / num_rows
    if not of_all_rows:
        return error
    by_context = rest[places]
    squares = by_context @ by_context.transpose(0, 2, 1)
    again = (rest @ residual)[places]
    less = 2 * np.sum(left * again, axis=(1, 2)) - np.sum(left * (squares @ left), axis=(1, 2))
    traces = np.trace(rest) - np.trace(np.linalg.solve(blocks, squares), axis1=1, axis2=2)
    return error * _growth(float(np.sum(residual**2)), less, float(np.trace(rest)), traces, num_rows)


def _growth(
    total: float, less: Float64[ndarray, " g"], trace: float, traces: Float64[ndarray, " g"], num_rows: int
) -> float:
    """GCV of all rows over its mean without each context; NaN where the other contexts are fitted exactly.

    Args:
        total: |W|^2.
        less: what it loses without each context.
        trace: tr A.
        traces: without each context.
        num_rows: n.
    """
    if not traces.min() > _LEAST_TRACE * trace:
        return np.nan
    kept = num_rows - num_rows // traces.size
    # rounding may leave a perfect fit below zero
    mean = float(np.mean(np.maximum(total - less, 0.0) * kept / traces**2))
    return total * num_rows / trace**2 / mean if mean > 0 else 1.0


def _solved(blocks: Float64[ndarray, "g T T"], residual: Float64[ndarray, "n m"]) -> Float64[ndarray, "g T m"] | None:
    """u of each context; None where a block is singular."""
    try:
        values = np.linalg.eigvalsh(blocks)
        # rounding is of the size of the largest block: one that is small in all directions is as uncertain
        if not values.min() > _LEAST_RECIPROCAL * values.max():
            return None
        return np.asarray(np.linalg.solve(blocks, residual.reshape(*blocks.shape[:2], -1)))
    except np.linalg.LinAlgError:
        return None
