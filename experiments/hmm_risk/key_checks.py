"""Checks of single keys, each an error that names key, value and fix."""

import math
from typing import Any

from lab.core.errors import ConfigError
from lab.core.ranges import LARGEST_COUNT

# far beyond what differs from the limits, which are ridge=0 and a head of zeros
_SMALLEST_RIDGE, _LARGEST_RIDGE = 1e-15, 1e15
_SMALLEST_GAMMA, _LARGEST_GAMMA = 1e-9, 1e6


def refuse_unless(condition: bool, key: str, value: object, expected: str) -> None:
    """Raise a ConfigError that names key, value and fix, unless `condition` holds."""
    if not condition:
        raise ConfigError(f"{key}={value}: {expected}")


def as_list(value: Any) -> list[Any]:
    """A grid key's value as a list: one number is a grid of one point."""
    return list(value) if isinstance(value, list | tuple) else [value]


def grid_values(key: str, value: Any) -> list[Any]:
    """The values of a grid key, without duplicates; at least one."""
    values = as_list(value)
    refuse_unless(len(values) > 0, key, value, "the grid is empty; give at least one value")
    # 1 and 1.0 are the same value
    different = {value if isinstance(value, int | float) else str(value) for value in values}
    refuse_unless(len(different) == len(values), key, value, "give each value once")
    return values


def is_number(value: Any) -> bool:
    """Whether a value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def is_whole(value: Any) -> bool:
    """Whether a value is a whole number."""
    return isinstance(value, int) and not isinstance(value, bool)


def check_sizes(gammas: list[float] | None, widths: list[int] | None) -> None:
    """Refuse model sizes that are missing, out of range, or out of order."""
    if widths is None and gammas is None:
        raise ConfigError("gammas=null and widths=null: give one of them, such as 'gammas=[0.5,1,2]'")
    if widths is not None:
        refuse_unless(len(widths) > 0, "widths", widths, "the grid is empty; give at least one width")
        refuse_unless(
            min(widths) >= 1 and max(widths) <= LARGEST_COUNT,
            "widths",
            widths,
            f"give widths from 1 to {LARGEST_COUNT}",
        )
        refuse_unless(widths == sorted(set(widths)), "widths", widths, "give each width once, in ascending order")
    elif gammas is not None:
        refuse_unless(len(gammas) > 0, "gammas", gammas, "the grid is empty; give at least one gamma = p/n")
        for gamma in gammas:
            refuse_unless(
                _SMALLEST_GAMMA <= gamma <= _LARGEST_GAMMA,
                "gammas",
                gamma,
                f"give gamma = p/n from {_SMALLEST_GAMMA:g} to {_LARGEST_GAMMA:g}",
            )


def check_ridge(strengths: list[Any]) -> None:
    """Refuse values other than strengths and `optimal`."""
    for strength in grid_values("ridge", strengths):
        refuse_unless(
            strength == "optimal"
            or (is_number(strength) and (strength == 0 or _SMALLEST_RIDGE <= strength <= _LARGEST_RIDGE)),
            "ridge",
            strength,
            f"give strengths of 0, or from {_SMALLEST_RIDGE:g} to {_LARGEST_RIDGE:g}, or `optimal`",
        )
