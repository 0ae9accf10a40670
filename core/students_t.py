"""Intervals of means over a few values by Student's t."""

from collections.abc import Sequence
from statistics import stdev


def t_quantile(num_values: int, confidence: float) -> float:
    """Half the width of the interval of a mean, in standard errors of that mean.

    Args:
        num_values: two or more independent normal values, of unknown variance, that the mean is taken of.
        confidence: coverage of the interval, in (0, 1).
    """
    # where nothing is averaged, as in `lab --help`, scipy is not loaded
    from scipy.special import stdtrit  # noqa: PLC0415

    return float(stdtrit(num_values - 1, (1 + confidence) / 2))


def half_width(values: Sequence[float], confidence: float) -> float:
    """Half the width of the interval of a mean by Student's t (Biometrika 6, 1908), in the unit of the values.

    Args:
        values: two or more, independent and normal.
        confidence: coverage of the interval, in (0, 1).
    """
    return t_quantile(len(values), confidence) * stdev(values) / len(values) ** 0.5
