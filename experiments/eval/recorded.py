"""Recorded evaluations: the rows of their tables, and the figures and results that these give."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from lab.core.errors import RunError
from lab.core.runs.axes import set_axes
from lab.core.runs.chosen import chosen, renamed
from lab.core.runs.figures import Drawn
from lab.core.runs.find import refuse_other_version
from lab.core.runs.parquet import read_table
from lab.core.runs.recorded_study import LabelledRun, PlotRequest, Result
from lab.experiments.eval.figures import FIGURES, drawn
from lab.experiments.eval.rows import ScoreRow
from lab.experiments.eval.seeds import is_mean

_SCORES = ("score", "difference", "recovered", "published")


def load(directory: Path) -> list[ScoreRow]:
    """The scores in a recorded run's table.

    Raises:
        RunError: if it is missing or damaged, or another version of lab wrote it.
    """
    refuse_other_version(directory)
    rows: list[dict[str, Any]] = read_table(directory).to_pylist()
    if any("kind" not in row for row in rows):
        raise RunError(f"{directory / 'table.parquet'} is not a table of an evaluation; `lab runs` lists them")
    return [cast("ScoreRow", row) for row in rows if row["kind"] in _SCORES]


class RecordedEvaluations:
    """See `RecordedStudy`."""

    def figures(self) -> list[str]:
        """The names of all figures."""
        return list(FIGURES)

    def draw(self, name: str, runs: Sequence[LabelledRun], request: PlotRequest) -> Drawn | None:
        """Draw a figure of one or several runs; see `RecordedStudy.draw`."""
        rows: list[ScoreRow] = []
        for run in runs:
            before = f"{run.label}: " if run.label else ""
            rows += [{**row, "model": f"{before}{row['model']}"} for row in load(run.directory)]
        models = list(dict.fromkeys(row["model"] for row in rows))
        labels = renamed(models, request.labels)
        named = {models[place]: labels[place] for place in chosen(models, request.curves)}
        figure = drawn(
            name, [{**row, "model": label} for model, label in named.items() for row in rows if row["model"] == model]
        )
        if figure is not None:
            set_axes(figure.figure, request.axes)
        return figure

    def results(self, directory: Path) -> list[Result]:
        """Every score of every model; see `RecordedStudy.results`."""
        return [
            Result(row["model"], row["task"], row["score"], row["value"], None, "mean" if is_mean(row) else "one draw")
            for row in load(directory)
            if row["kind"] == "score"
        ]


STUDY = RecordedEvaluations()
