"""What a task is: samples of which each gives a row, and scores of these rows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from lab.core.benchmarks.spec import Scores, Totals
from lab.core.benchmarks.totals import ClusterCounts
from lab.experiments.distill.load import FoundModel
from lab.experiments.eval.answering import Respondent
from lab.experiments.eval.rows import SampleRow

Rows = Sequence[dict[str, Any]]
"""Sample rows of one model and one task, as recorded."""


@dataclass(frozen=True, slots=True)
class Measured:
    """Counts of a model on a task, and the scores that they give.

    Attributes:
        counts: by cluster of samples.
        scores: from totals of counts.
        headlines: names of scores in order of preference; the first one present is quoted.
        unit_of: the unit of a score, by its name.
        is_share: whether a score with that name is a share of clusters, so that it has a binomial interval.
        is_lower_better: whether the headline is a loss.
    """

    counts: ClusterCounts
    scores: Callable[[Totals], Scores]
    headlines: Sequence[str]
    unit_of: Callable[[str], str]
    is_share: Callable[[str], bool]
    is_lower_better: bool = False


class Task(Protocol):
    """A task.

    Attributes:
        word: as it was typed.
        digest: of its files.
        num_left_out: rows that are not asked.
    """

    word: str
    digest: str
    num_left_out: int

    def refuse(self, found: FoundModel, label: str) -> None:
        """Refuse a model that cannot do the task, before its weights are loaded.

        Raises:
            LabError: with the reason.
        """
        ...

    def size(self, respondent: Respondent | None) -> int:
        """Number of samples, for a model; None: those that a file holds."""
        ...

    def sample(self, place: int, respondent: Respondent, teacher: Respondent | None, earlier: Rows) -> SampleRow:
        """The row of a sample.

        Args:
            place: number of the sample.
            respondent: who answers.
            teacher: to compare with; None for the teacher itself, without one, or with another vocabulary.
            earlier: the teacher's rows of this task, by place.

        Raises:
            LabError: naming the sample, if it cannot be read.
        """
        ...

    def measured(self, rows: Rows) -> list[Measured]:
        """What the rows of a model give; the first has the headline."""
        ...

    def chance(self) -> Measured | None:
        """What a random guess gives; None where there is none."""
        ...
