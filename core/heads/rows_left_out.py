"""Exact leave-one-out error of ridge and minimum-norm heads of any rank.

With X = U diag(s) V' to its rank, P = I - UU' and G = U diag(s^2 + n lambda)^-1 U', what is left of the targets is
(P + n lambda G) Y, and the error of row i under the head of the other rows is

    (P Y + n lambda G Y)_i / (P + n lambda G)_ii,    where P_ii > 0,
    (G Y)_i / G_ii,                                  where P_ii = 0,

both of them for lambda = 0, too: a row with P_ii = 0 determines a direction alone, is fitted exactly, and without it
the minimum-norm head leaves that direction out. Rows of zeros have G_ii = 0 and P_ii = 1; of copies, neither is alone.
"""

# Letters: n rows, m outputs.

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from lab.core.heads.decompositions import Svd

# P_ii below which it is rounding
_LEAST_OUTSIDE = 1e-12


def rows_left_out(svd: Svd, targets: Float64[ndarray, "n m"], penalty: float) -> float:
    """Mean squared error of each row under the head that the others give, summed over outputs.

    Args:
        svd: of the features, up to their rank.
        targets: Y.
        penalty: n lambda; 0 for the minimum-norm head.
    """
    left, num_rows = svd.left, len(targets)
    aligned, gain = left.T @ targets, 1 / (svd.singular**2 + penalty)
    inside, own_inside = left @ (gain[:, None] * aligned), left**2 @ gain
    outside, own_outside = targets - left @ aligned, 1 - np.sum(left**2, axis=1)
    is_alone = own_outside < _LEAST_OUTSIDE if svd.rank < num_rows else np.ones(num_rows, bool)
    errors = np.where(is_alone[:, None], inside, outside + penalty * inside)
    free = np.where(is_alone, own_inside, own_outside + penalty * own_inside)
    return float(np.mean(np.sum(errors**2, axis=1) / free**2))
