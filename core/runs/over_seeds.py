"""Results of recorded runs as means over seeds: runs whose configurations differ in nothing else belong together."""

from collections.abc import Mapping, Sequence
from statistics import fmean, median
from typing import Any, NamedTuple

from lab.core.runs.compare import differing_keys
from lab.core.runs.recorded_study import Result
from lab.core.students_t import half_width

SEED = "seed"
_CONFIDENCE = 0.95


class Group(NamedTuple):
    """Runs that differ in their seed alone.

    Attributes:
        values: of the keys in which groups differ.
        runs: their places among all runs, one for each seed.
        again: places of runs with a seed that one of `runs` has: the same draws, which count once.
    """

    values: tuple[object, ...]
    runs: tuple[int, ...]
    again: tuple[int, ...]


class SeedMean(NamedTuple):
    """What runs with several seeds measured at one point.

    Attributes:
        curve, point, quantity: as of `Result`.
        value: the mean over runs; their median, if one of them has no mean.
        half_width: of the 95 % interval of the mean by Student's t; None for a median, or one run.
        num_runs: that have the point.
        summary: `mean` or `median`.
    """

    curve: str
    point: str
    quantity: str
    value: float
    half_width: float | None
    num_runs: int
    summary: str


def grouped(configs: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[Group]]:
    """The keys besides `seed` in which configurations differ, and the runs with the same values of all of them."""
    keys = [(key, values) for key, values in differing_keys(configs) if key != SEED]
    places: dict[str, list[int]] = {}
    for place in range(len(configs)):
        # values may be lists
        places.setdefault(repr([values[place] for _, values in keys]), []).append(place)
    found = []
    for members in places.values():
        first_of: dict[object, int] = {}
        again = tuple(place for place in members if first_of.setdefault(configs[place].get(SEED), place) != place)
        own = tuple(values[members[0]] for _, values in keys)
        found.append(Group(own, tuple(first_of.values()), again))
    return [key for key, _ in keys], found


def means(results: Sequence[Sequence[Result]]) -> list[SeedMean]:
    """Means over runs of what they measured, in the order of the first run that has it.

    Args:
        results: of each run of a group.
    """
    known: dict[tuple[str, str, str], list[Result]] = {}
    for of_run in results:
        for result in of_run:
            known.setdefault((result.curve, result.point, result.quantity), []).append(result)
    return [_mean(place, found) for place, found in known.items()]


def _mean(place: tuple[str, str, str], found: Sequence[Result]) -> SeedMean:
    values = [result.value for result in found]
    if any(result.summary == "median" for result in found):
        return SeedMean(*place, median(values), None, len(values), "median")
    if len(values) < 2:
        return SeedMean(*place, values[0], None, 1, "mean")
    return SeedMean(*place, fmean(values), half_width(values, _CONFIDENCE), len(values), "mean")
