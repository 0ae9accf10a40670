"""Compare recorded runs: where their configurations differ, and their results point by point."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from lab.core.dotted_keys import by_dotted_key
from lab.core.runs.recorded_study import Result

_ABSENT = "absent"
# a standard error below this fraction of the numbers is that of their last digits
_ROUNDING = 1e-12
# of how a run was executed and shown
_NOT_COMPARED = frozenset(
    {"workers", "threads", "loader", "loader_processes", "sinks", "resume_on", "title", "figures"}
)


class Difference(NamedTuple):
    """A point that two runs have measured.

    Attributes:
        curve: of the first run.
        point: on it.
        quantity: what was measured.
        first, second: both numbers.
    """

    curve: str
    point: str
    quantity: str
    first: Result
    second: Result

    @property
    def difference(self) -> float:
        """Second minus first."""
        return self.second.value - self.first.value

    @property
    def z(self) -> float | None:
        """The difference over its standard error, the runs taken as independent; None where that is not known."""
        errors = (self.first.standard_error, self.second.standard_error)
        if any(error is None or not math.isfinite(error) for error in errors):
            return None
        error = math.hypot(*(error or 0.0 for error in errors))
        is_rounding = error <= _ROUNDING * max(abs(self.first.value), abs(self.second.value))
        return None if is_rounding else self.difference / error


def differing_keys(configs: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[object]]]:
    """Keys of configurations whose values are not all the same, with each value; `absent` where there is none."""
    flat = [by_dotted_key(config) for config in configs]
    keys = dict.fromkeys(key for one in flat for key in one)
    found = []
    for key in keys:
        values = [one.get(key, _ABSENT) for one in flat]
        if key.partition(".")[0] not in _NOT_COMPARED and any(value != values[0] for value in values):
            found.append((key, values))
    return found


def paired(first: Sequence[Result], second: Sequence[Result]) -> list[Difference]:
    """Every number that both runs have: of the same curve, point and quantity.

    Curves are matched by their labels; the only curve of either run with whatever label.
    """
    names = [list(dict.fromkeys(result.curve for result in results)) for results in (first, second)]
    is_one = all(len(curves) == 1 for curves in names)
    known = {("" if is_one else result.curve, result.point, result.quantity): result for result in second}
    found = []
    for result in first:
        other = known.get(("" if is_one else result.curve, result.point, result.quantity))
        if other is not None:
            found.append(Difference(result.curve, result.point, result.quantity, result, other))
    return found
