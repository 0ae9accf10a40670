"""Choose the widths between those of the grid at which theory is evaluated, so that its line can be drawn."""

import math
from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from typing import Any

import numpy as np

from lab.experiments.hmm_risk.theory_lines.interpolation import COLUMNS, Known, known_of

# Distance from the line between two nodes that is close enough. What it is measured at becomes a node too, so that the
# final line is closer. A model whose outputs grow with it makes steps at each width, of the order of one over the
# width, so narrow models have less tolerance; theory costs less there.
_TOLERANCE, _LEAST_TOLERANCE, _WIDTH_OF_FULL_TOLERANCE = 0.002, 0.0005, 100
# where between two nodes it is measured, as a share of the logarithm: one place could agree by chance
_PROBES = (1 / 3, 2 / 3)
# nodes further apart than this factor are too few to judge by that
_LARGEST_FACTOR = 2.0
# work for nodes, in that of the grid, where it is dear
_MOST_WORK = 2
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
    cost: Callable[[int], int] | None = None,
    step: int = 1,
) -> list[Row]:
    """Theory rows at widths between those of the grid, as many as the line needs.

    Args:
        rows: theory at the widths of the grid, for every ridge strength.
        theory_at: the rows of other widths, for every ridge strength.
        num_train: n.
        is_dependent: whether several rows come from one sequence.
        cost: of theory at a width, in any unit, where it is dear: then the nodes cost no more than twice what those of
            the grid do, and the line is as close as that makes it. None where it is cheap.
        step: widths are multiples of it.
    """
    found: dict[int, list[Row]] = {}
    for row in rows:
        found.setdefault(row["width"], []).append(row)
    grid = set(found)
    has_pole = any(row["ridge"] == "0" for row in rows)

    def evaluate(widths: Sequence[int]) -> None:
        for row in theory_at(widths):
            found.setdefault(row["width"], []).append(row)

    if has_pole:
        # up to the threshold from either side, and at it: with a ridge, the risk may be highest there
        ends = (step * ((num_train - 1) // step), num_train, step * (num_train // step + 1))
        missing = [width for width in ends if min(grid) < width < max(grid) and width % step == 0 and width not in grid]
        if missing:
            evaluate(missing)
    budget = math.inf if cost is None else _MOST_WORK * sum(cost(width) for width in grid)
    cost = cost or (lambda _: 0)
    todo = _segments(sorted(found), num_train, has_pole=has_pole)
    while todo:
        probes = {segment: _probes(*segment, step) for segment in todo}
        todo = [segment for segment in todo if probes[segment]]
        # narrow models first: as many as there is work left for
        spent = list(accumulate(sum(cost(width) for width in probes[segment]) for segment in todo))
        todo = todo[: sum(cost <= budget for cost in spent)]
        budget -= spent[len(todo) - 1] if todo else 0
        known = [_known(found, *segment, num_train, is_dependent=is_dependent) for segment in todo]
        if todo:
            evaluate([width for segment in todo for width in probes[segment]])
        following: list[tuple[int, int]] = []
        for segment, line in zip(todo, known, strict=True):
            low, high = segment
            if high > _LARGEST_FACTOR * low or not all(_is_close(line, found[width]) for width in probes[segment]):
                following += pairwise((low, *probes[segment], high))
        todo = following
    return [row for width in sorted(found) if width not in grid for row in found[width]]


def _segments(widths: Sequence[int], num_train: int, *, has_pole: bool) -> list[tuple[int, int]]:
    return [pair for pair in pairwise(widths) if not (has_pole and pair[0] <= num_train <= pair[1])]


def _probes(low: int, high: int, step: int) -> list[int]:
    """Widths between two others, none twice."""
    widths = {step * round(low * (high / low) ** share / step) for share in _PROBES}
    return sorted(width for width in widths if low < width < high)


def _known(found: dict[int, list[Row]], low: int, high: int, num_train: int, *, is_dependent: bool) -> dict[str, Known]:
    """What the two ends of a segment say, by ridge strength."""
    ridges = [row["ridge"] for row in found[low]]
    return {
        ridge: known_of(
            [row for width in (low, high) for row in found[width] if row["ridge"] == ridge],
            num_train=num_train,
            has_pole=ridge == "0",
            is_dependent=is_dependent,
        )
        for ridge in ridges
    }


def _is_close(known: dict[str, Known], rows: Sequence[Row]) -> bool:
    for row in rows:
        ends = known[row["ridge"]]
        tolerance = max(_LEAST_TOLERANCE, _TOLERANCE * min(1.0, row["width"] / _WIDTH_OF_FULL_TOLERANCE))
        guess = ends.at(np.array([row["width"]]))
        for name in _CHECKED:
            if name not in guess:
                continue
            value, expected = float(guess[name][0]), float(row[name])
            if math.isnan(value) and math.isnan(expected):
                continue
            scale = max(abs(expected), _NEGLIGIBLE * float(np.nanmax(np.abs(ends.values[name]), initial=0.0)))
            if not abs(value - expected) <= tolerance * scale:
                return False
    return True
