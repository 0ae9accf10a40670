"""Mean and standard error over two levels: draws of the training rows within draws of the problem.

With K problems the standard error of the grand mean is the standard deviation of the K problem means, divided by
sqrt(K). It holds both levels, however they are distributed: the means are independent and identically distributed. With
one problem it is that of its draws alone: the spread between problems is not in it.
"""

# Letters: k points, K problems, R draws of the rows of each.

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from lab.core.students_t import t_quantile

_CONFIDENCE = 0.95
# of many draws
_CLEARLY = 2.0


@dataclass(frozen=True, slots=True)
class Spread:
    """A mean over all draws at every point.

    Attributes:
        mean: over problems and draws.
        standard_error: of that mean, over both levels.
        between: standard deviation between problems that draws of the rows do not explain: the root of the variance of
            the problem means minus the mean squared standard error of one, or 0 where that is negative (the moment
            estimate of a one-way layout); NaN with one problem, or one draw of each.
        within: standard error that the mean would have if all problems were the same: from draws of the rows alone; NaN
            with one draw of each problem.
    """

    mean: Float64[ndarray, " k"]
    standard_error: Float64[ndarray, " k"]
    between: Float64[ndarray, " k"]
    within: Float64[ndarray, " k"]

    @property
    def z(self) -> Float64[ndarray, " k"]:
        """Mean over standard error; NaN where either is undefined or the standard error is zero."""
        with np.errstate(divide="ignore", invalid="ignore"):
            z = self.mean / self.standard_error
        return np.where(np.isfinite(z), z, np.nan)


def spread(values: Float64[ndarray, "k K R"]) -> Spread:
    """Mean and its standard error at every point; NaN where values are missing or there are too few."""
    num_points, num_problems, num_draws = values.shape
    missing = np.full(num_points, np.nan)
    if num_problems * num_draws == 0:
        return Spread(missing, missing, missing, missing)
    with np.errstate(invalid="ignore"):
        mean = values.reshape(num_points, -1).mean(axis=1)
        # of the mean of one problem
        squared = values.var(axis=2, ddof=1).mean(axis=1) / num_draws if num_draws > 1 else missing
        if num_problems == 1:
            return Spread(mean, np.sqrt(squared), missing, np.sqrt(squared))
        variance = values.mean(axis=2).var(axis=1, ddof=1)
        return Spread(
            mean,
            standard_error=np.sqrt(variance / num_problems),
            between=np.sqrt(np.maximum(variance - squared, 0.0)),
            within=np.sqrt(squared / num_problems),
        )


def clear_distance(num_draws: int) -> float:
    """How many standard errors, themselves estimated from so many independent draws, are a difference.

    Student's quantile of nineteen in twenty, and two for many draws; infinite for fewer than two, which have no spread.
    """
    return max(_CLEARLY, t_quantile(num_draws, _CONFIDENCE)) if num_draws > 1 else math.inf
