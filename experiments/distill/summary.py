"""Students after each of their stages, over replicates."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from lab.experiments.distill.rows import Quantity, ResultRow, Row

STUDENT = "student"
_MEASURED: tuple[Quantity, ...] = ("accuracy", "kl_per_token", "kl_per_answer_token", "agreement", "relative_error")


@dataclass(frozen=True, slots=True)
class Summary:
    """A student after one of its stages, over replicates.

    Attributes:
        label: of the student.
        stage: 0 for the untrained student.
        is_last: whether this is its last stage.
        num_softmax: number of softmax attention layers.
        values: for each quantity, one number per replicate.
    """

    label: str
    stage: int
    is_last: bool
    num_softmax: int
    values: dict[Quantity, list[float]]

    def mean(self, quantity: Quantity) -> float | None:
        """The mean over replicates; None if it was not measured."""
        return fmean(self.values[quantity]) if self.values[quantity] else None

    def spread(self, quantity: Quantity) -> float | None:
        """The standard deviation over replicates; None for one."""
        return stdev(self.values[quantity]) if len(self.values[quantity]) > 1 else None


def summaries(table: Sequence[Row]) -> list[Summary]:
    """Every student after each of its stages, in the order of the run."""
    groups: dict[tuple[str, int], list[ResultRow]] = {}
    for row in table:
        if row["kind"] == "result" and row["model"] == STUDENT:
            groups.setdefault((row["student"], row["stage"]), []).append(row)
    return [
        Summary(
            label,
            stage,
            rows[0]["is_last"],
            rows[0]["num_softmax"],
            {name: [value for row in rows if (value := row[name]) is not None] for name in _MEASURED},
        )
        for (label, stage), rows in groups.items()
    ]
