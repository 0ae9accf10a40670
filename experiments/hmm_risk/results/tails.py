"""Where a mean over draws estimates nothing: a diagnosis of tails by the share of the largest draw.

The largest of N independent exponential variables has more than the share g of their sum with the probability

    P(g) = sum_{j >= 1} (-1)^(j - 1) C(N, j) (1 - j g)_+^(N - 1)

(R. A. Fisher, Tests of significance in harmonic analysis, Proc. R. Soc. A 125, 1929). The exponential distribution is
the border that is chosen here: with lighter tails, no draw decides a mean of twenty or more; where the observed share
would be an accident of less than 1 % under it, tails are heavier, the sum is a handful of draws, and the next draw may
double it. That is asked of the draws of all problems together, and of the problem means, since one problem may hold the
sum as well.

Measured on the figures of the study with one problem each: none of 814 points with Gaussian features fires, while
posteriors do at 18 of 60 points, with shares of 27 to 85 % of 30 draws and P(g) from 3e-3 to 7e-23. A sample may hide a
tail by chance, so a known one is not left to the test: within three rows of p = n the minimum-norm head has no mean, or
one of infinite variance (inverse Wishart moments). With a ridge there is a mean; where the ridge is so small that it
leaves less than a fourth row free there, it is that of rare draws, whose smallest eigenvalue is below the ridge.
Classes are judged by their log-loss alone, since their errors are bounded.
"""

# Letters: k points, K problems, R draws of the rows of each, N draws in all.

import math

import numpy as np
from jaxtyping import Bool, Float64
from numpy import ndarray

# Within this many rows of p = n the mean of the minimum-norm head's risk, or its variance, is infinite; p counts the
# directions in which the features vary.
NO_MEAN_WITHIN = 3

_ACCIDENT = 0.01
# beyond this first term the probability is 1 to nine digits, and the sum would be rounding
_LARGEST_TERM = 20.0


def probability_of_share(share: float, count: int) -> float:
    """The probability that the largest of `count` exponential variables has more than `share` of their sum: P(g)."""
    if not share > 1 / count:
        return 1.0
    if share >= 1:
        return 0.0
    total = 0.0
    for j in range(1, count + 1):
        rest = 1 - j * share
        if rest <= 0:
            break
        chosen = math.lgamma(count + 1) - math.lgamma(j + 1) - math.lgamma(count - j + 1)
        term = math.exp(chosen + (count - 1) * math.log(rest))
        if term > _LARGEST_TERM and j == 1:
            return 1.0
        total += term if j % 2 else -term
    return min(max(total, 0.0), 1.0)


def largest_share(values: Float64[ndarray, "k N"]) -> Float64[ndarray, " k"]:
    """The share of the largest draw in the sum of each point; NaN where values are missing or the sum is zero."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return values.max(axis=1, initial=-np.inf) / values.sum(axis=1)


def is_heavy(values: Float64[ndarray, "k K R"]) -> Bool[ndarray, " k"]:
    """Whether the tail at each point is heavier than exponential, so that the mean estimates nothing.

    Args:
        values: none negative; NaN counts as not heavy.
    """
    draws = values.reshape(values.shape[0], -1)
    levels = [draws] if values.shape[1] == 1 else [draws, values.mean(axis=2)]
    found = np.zeros(values.shape[0], dtype=bool)
    for level in levels:
        shares = largest_share(level)
        found |= [share > 0 and probability_of_share(share, level.shape[1]) < _ACCIDENT for share in shares.tolist()]
    return found
