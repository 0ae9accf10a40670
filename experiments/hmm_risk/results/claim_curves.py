"""The curves of a summary's table, as claims read them: columns by name, and numbers with their intervals."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lab.core.report.content import Entry


@dataclass(frozen=True, slots=True)
class ClaimCurve:
    """Rows of one curve: numbers by column, None where there is none."""

    label: str
    columns: dict[str, list[float | None]]
    is_mean: list[bool]

    def __getitem__(self, name: str) -> list[float | None]:
        return self.columns.get(name, [None] * len(self.is_mean))

    def has(self, *names: str) -> bool:
        """Whether some row has a number in each of the columns."""
        return any(all(self[name][place] is not None for name in names) for place in range(len(self.is_mean)))

    def places(self, *names: str) -> list[int]:
        """Rows with a number in each of the columns."""
        return [place for place in range(len(self.is_mean)) if all(self[name][place] is not None for name in names)]


def claim_curves(columns: Sequence[str], rows: Sequence[Sequence[Entry]]) -> list[ClaimCurve]:
    """The curves of a table whose first column is their label, in its order."""
    grouped: dict[str, list[Sequence[Entry]]] = {}
    for row in rows:
        grouped.setdefault(str(row[0] or ""), []).append(row)
    found = []
    for label, mine in grouped.items():
        numbers = {name: [_number(row[place]) for row in mine] for place, name in enumerate(columns[1:], start=1)}
        is_mean = [not any(entry == "median" for entry in row) for row in mine]
        found.append(ClaimCurve(label or "the curve", numbers, is_mean))
    return found


def _number(entry: Entry) -> float | None:
    try:
        number = float(entry)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def with_interval(curve: ClaimCurve, name: str, error: str, place: int) -> str:
    """A number with the interval of two standard errors, or what else it is."""
    number, standard_error = known(curve[name], place), curve[error][place]
    if not curve.is_mean[place]:
        low, high = curve["10 %"][place], curve["90 %"][place]
        spread = "" if low is None or high is None else f", 10 to 90 % of the draws {low:.3g} to {high:.3g}"
        return f"{number:.3g} (median{spread})"
    return f"{number:.3g}" if standard_error is None else f"{number:.3g} ± {2 * standard_error:.2g}"


def known(column: Sequence[float | None], place: int) -> float:
    """The number in a row that is known to have one."""
    number = column[place]
    assert number is not None, "the caller has chosen rows with a number"
    return number
