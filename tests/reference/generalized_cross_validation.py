"""Generalized cross-validation of minimum-norm heads, from explicit smoothers."""

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

# Letters: n rows, p features, m outputs, T rows of a context.


def gcv(features: Float64[ndarray, "n p"], targets: Float64[ndarray, "n m"]) -> float:
    """(|W|^2/n) / (tr A/n)^2, W = A Y, with A = I - X X^+ up to rank n - 1, and (X X')^-1 beyond."""
    rows = len(features)
    if np.linalg.matrix_rank(features) < rows:
        rest = np.eye(rows) - features @ np.linalg.pinv(features, rcond=1e-10)
    else:
        rest = np.linalg.inv(features @ features.T)
    return float(np.sum((rest @ targets) ** 2) / rows / (np.trace(rest) / rows) ** 2)


def growth(features: Float64[ndarray, "n p"], targets: Float64[ndarray, "n m"], size: int) -> float:
    """GCV of all rows over its mean over contexts, T rows that follow each other, that are left out."""
    context = np.arange(len(features)) // size
    without = [gcv(features[context != left], targets[context != left]) for left in np.unique(context)]
    return gcv(features, targets) / float(np.mean(without))
