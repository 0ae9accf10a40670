"""Choose the widths between those of the grid at which theory is evaluated, so that its line can be drawn."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from jaxtyping import Bool, Int64
from numpy import ndarray

from lab.experiments.hmm_risk.theory_lines.interpolation import COLUMNS, Known, known_of
from lab.experiments.hmm_risk.theory_lines.spacing import Spacing, segments

# below this fraction of a column's largest value, nothing is drawn
_NEGLIGIBLE = 1e-9

_CHECKED = tuple(name for name in COLUMNS if name != "misspecification")

Row = dict[str, Any]


def rows_between(
    rows: Sequence[Row],
    theory_at: Callable[[Sequence[int]], Sequence[Row]],
    *,
    num_train: int,
    is_dependent: bool,
    spacing: Spacing,
    step: int = 1,
) -> list[Row]:
    """Theory rows at widths between those of the grid, as many as the line needs.

    Args:
        rows: theory at the widths of the grid, for every ridge strength.
        theory_at: the rows of other widths, for every ridge strength.
        num_train: n.
        is_dependent: whether several rows come from one sequence.
        spacing: of the widths.
        step: widths are multiples of it.
    """
    found: dict[int, list[Row]] = {}
    for row in rows:
        found.setdefault(row["width"], []).append(row)
    grid = sorted(found)
    pole = num_train if any(row["ridge"] == "0" for row in rows) else None

    def evaluate(widths: set[int]) -> None:
        for row in theory_at(sorted(widths)):
            found.setdefault(row["width"], []).append(row)

    ends = set(grid)
    if pole is not None:
        # up to the threshold from either side, and at it: with a ridge, the risk may be highest there
        beside = (step * ((num_train - 1) // step), num_train, step * (num_train // step + 1))
        ends |= {width for width in beside if grid[0] < width < grid[-1] and width % step == 0}
    wanted = {
        width
        for low, high in segments(sorted(ends), num_train=pole)
        for width in spacing.between(low, high, num_train=pole, step=step)
    }
    missing = (wanted | ends) - found.keys()
    while missing:
        evaluate(missing)
        if spacing.tolerance is None:
            break
        missing = _halves(found, num_train, spacing.tolerance, is_dependent=is_dependent, step=step)
    return [row for width in sorted(found) if width not in grid for row in found[width]]


def _halves(
    found: dict[int, list[Row]], num_train: int, tolerance: float, *, is_dependent: bool, step: int
) -> set[int]:
    """Widths in the middle of segments next to a width that is far from the line through its neighbours."""
    wanted: set[int] = set()
    for place, first in enumerate(next(iter(found.values()))):
        known = known_of(
            [of_width[place] for of_width in found.values()],
            num_train=num_train,
            has_pole=first["ridge"] == "0",
            is_dependent=is_dependent,
        )
        for side in known.sides():
            far = set(known.widths[side][_is_far(known, side, tolerance)].tolist())
            for low, high in pairwise(known.widths[side].tolist()):
                middle = step * round((low * high) ** 0.5 / step)
                if (low in far or high in far) and low < middle < high:
                    wanted.add(middle)
    return wanted - found.keys()


def _is_far(known: Known, side: Int64[ndarray, " k"], tolerance: float) -> Bool[ndarray, " k"]:
    """Whether theory at each width of a side is far from the line through its two neighbours; not at the ends."""
    far = np.zeros(side.size, dtype=bool)
    for parity in (0, 1):
        others, mine = side[parity::2], side[1 - parity :: 2]
        if others.size < 2:
            continue
        line = known.only(others).at(known.widths[mine])
        is_inside = (known.widths[mine] > known.widths[others[0]]) & (known.widths[mine] < known.widths[others[-1]])
        for name in _CHECKED:
            if name in line:
                values, of_side = known.values[name][mine], known.values[name][side]
                largest = float(np.abs(of_side[np.isfinite(of_side)]).max(initial=0.0))
                allowed = tolerance * np.maximum(np.abs(values), _NEGLIGIBLE * largest)
                # also where only one of them is a number: theory ends somewhere between
                is_wrong = ~(np.abs(line[name] - values) <= allowed) & ~(np.isnan(line[name]) & np.isnan(values))
                far[1 - parity :: 2] |= is_inside & is_wrong
    return far
