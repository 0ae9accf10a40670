"""Conclusions of a benchmark from all its cases: numbers with requirements, and figures."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.experiments.bench.rates import MachinePeak


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A number that is not a time or follows from several cases, and its requirement.

    Attributes:
        name: of the quantity.
        value: the number; None if it could not be determined.
        unit: of the number; empty for a dimensionless one.
        at_least: the smallest acceptable value, if required.
        at_most: the largest acceptable value, if required.
        note: how it was determined, or why not.
    """

    name: str
    value: float | None
    unit: str = ""
    at_least: float | None = None
    at_most: float | None = None
    note: str = ""

    @property
    def is_met(self) -> bool | None:
        """Whether the requirement is met (not without a number); None without a requirement."""
        if self.at_least is None and self.at_most is None:
            return None
        if self.value is None:
            return False
        return (self.at_least is None or self.value >= self.at_least) and (
            self.at_most is None or self.value <= self.at_most
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Conclusion:
    """Results of a benchmark after its last case.

    Attributes:
        findings: for the last table and the summary.
        facts: further plain data for the result file.
        peak: rates of the machine to which shares refer; None without shares.
        draw: writes figures, given a folder and a prefix of their names; None without figures.
    """

    findings: Sequence[Finding]
    facts: Mapping[str, Any]
    peak: MachinePeak | None = None
    draw: Callable[[Path, str], None] | None = None
