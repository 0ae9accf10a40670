"""What a benchmark concludes from all its cases: numbers with a demand on them, and figures."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A number that follows from several cases or is no time, and what is demanded of it.

    Attributes:
        name: what was found.
        value: the number; None if it could not be found.
        unit: of the number; empty for a pure one.
        at_least: the smallest value that is good enough, if one is demanded.
        at_most: the largest.
        note: how it was found, or why it was not.
    """

    name: str
    value: float | None
    unit: str = ""
    at_least: float | None = None
    at_most: float | None = None
    note: str = ""

    @property
    def is_met(self) -> bool | None:
        """Whether the demand holds, which it does not where there is no number; None where nothing is demanded."""
        if self.at_least is None and self.at_most is None:
            return None
        if self.value is None:
            return False
        return (self.at_least is None or self.value >= self.at_least) and (
            self.at_most is None or self.value <= self.at_most
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Conclusion:
    """What a benchmark has to say after its last case.

    Attributes:
        findings: for the last table and the summary.
        facts: more plain data for the result file.
        draw: writes figures; called with a folder and the beginning of their names. None: there are none.
    """

    findings: Sequence[Finding]
    facts: Mapping[str, Any]
    draw: Callable[[Path, str], None] | None = None
