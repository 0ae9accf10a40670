"""Growth of time with length: the slope of a log-log line, and the length from which one candidate is faster."""

import math
from collections.abc import Sequence


def growth_exponent(lengths: Sequence[int], times_s: Sequence[float]) -> float:
    """Slope of the least-squares line through (log length, log time): 1 is linear time, 2 is quadratic."""
    x = [math.log(length) for length in lengths]
    y = [math.log(time_s) for time_s in times_s]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    covariance = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    return covariance / sum((a - mean_x) ** 2 for a in x)


def crossover_length(lengths: Sequence[int], ratios: Sequence[float]) -> float | None:
    """The length from which the other's time over ours stays above 1.

    Between the last length where it is not and the next one, the log ratio is interpolated linearly in log length. A
    win at a short length does not count if a loss at a longer one follows.

    Args:
        lengths: ascending.
        ratios: the other's time over ours at each.

    Returns:
        The length; the first one if ours is faster everywhere (it may be faster even below), None if it is slower at
        the last.
    """
    slower = [i for i, ratio in enumerate(ratios) if ratio <= 1]
    if not slower:
        return float(lengths[0])
    last = slower[-1]
    if last == len(lengths) - 1:
        return None
    low, high = (math.log(length) for length in lengths[last : last + 2])
    below, above = (math.log(ratio) for ratio in ratios[last : last + 2])
    return math.exp(low + (high - low) * -below / (above - below))
