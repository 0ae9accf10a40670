"""What a report holds: claims with their evidence, tables, maps and pictures. A study fills in what only it knows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

# of a table: a number, a label, or nothing
Entry = str | int | float | None


class Verdict(Enum):
    """Whether the numbers of a run bear a claim out."""

    holds = "holds"
    partly = "holds in part"
    fails = "does not hold"
    undecided = "undecided"


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """A sentence that a run is about.

    Attributes:
        statement: the claim.
        verdict: what the numbers say.
        evidence: these numbers, with their intervals, in a sentence.
        figure: the name of the figure that shows it; empty if none does.
    """

    statement: str
    verdict: Verdict
    evidence: str
    figure: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """Rows of numbers and labels.

    Attributes:
        title: what it shows.
        columns: names, as many as each row has entries.
        rows: the entries; those of the first column are labels.
        note: how to read it.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Entry]]
    note: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class HeatMap(Table):
    """A table whose numbers are shaded by their size."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """A figure.

    Attributes:
        name: that of its file, without the ending.
        png: the file.
        alt: what it shows, for those who cannot see it.
        caption: how to read it.
    """

    name: str
    png: bytes
    alt: str
    caption: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Findings:
    """What a study says of one of its runs.

    Attributes:
        claims: the most important first.
        pictures: drawn from the run's table, besides the figures that are in its folder.
        tables: besides the one of summary.json.
        design: what was drawn how often: seeds, replicates and the like.
        faults: what is missing or damaged, in sentences.
    """

    claims: Sequence[Claim] = ()
    pictures: Sequence[Picture] = ()
    tables: Sequence[Table] = ()
    design: Mapping[str, str] = field(default_factory=dict)
    faults: Sequence[str] = ()


def share_verdict(bearing: int, total: int) -> Verdict:
    """The verdict on a claim that each of several curves or students bears out or not."""
    if total == 0:
        return Verdict.undecided
    return Verdict.holds if bearing == total else Verdict.partly if bearing else Verdict.fails
