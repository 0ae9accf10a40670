"""Recorded distillations: the rows of their tables, and the figures and results that these give."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from lab.core.errors import ConfigError, RunError
from lab.core.runs.axes import set_axes
from lab.core.runs.chosen import chosen, renamed
from lab.core.runs.figures import Drawn
from lab.core.runs.find import refuse_other_version
from lab.core.runs.parquet import read_table
from lab.core.runs.recorded_study import LabelledRun, PlotRequest, Result
from lab.experiments.distill.figures import FIGURES, drawn
from lab.experiments.distill.report import accuracies
from lab.experiments.distill.rows import Quantity, Row
from lab.experiments.distill.summary import STUDENT, summaries

_COMPARED: tuple[Quantity, ...] = ("accuracy", "kl_per_token", "kl_per_answer_token", "agreement", "relative_error")


def load(directory: Path) -> list[Row]:
    """The rows of a recorded run's table.

    Raises:
        RunError: if it is missing or damaged, or another version of lab wrote it.
    """
    refuse_other_version(directory)
    rows: list[Any] = []
    for recorded in read_table(directory).to_pylist():
        row = {name: value for name, value in recorded.items() if value is not None}
        if row.get("kind") == "result" and row.get("model") == STUDENT:
            # a student without converted layers has no error of them
            row.setdefault("relative_error", None)
        rows.append(row)
    if any("kind" not in row for row in rows):
        raise RunError(f"{directory / 'table.parquet'} is not a table of a distillation; `lab runs` lists them")
    return cast("list[Row]", rows)


class RecordedDistillations:
    """See `RecordedStudy`."""

    def figures(self) -> list[str]:
        """The names of all figures."""
        return list(FIGURES)

    def draw(self, name: str, runs: Sequence[LabelledRun], request: PlotRequest) -> Drawn | None:
        """Draw a figure of one or several runs; see `RecordedStudy.draw`."""
        table = _chosen(_together([(run, load(run.directory)) for run in runs]), request)
        figure = drawn(name, table)
        if figure is not None:
            set_axes(figure.figure, request.axes)
        return figure

    def results(self, directory: Path) -> list[Result]:
        """What a run measured of every student after each stage; see `RecordedStudy.results`."""
        found = []
        for summary in summaries(load(directory)):
            for quantity in _COMPARED:
                value, spread = summary.mean(quantity), summary.spread(quantity)
                if value is None:
                    continue
                count = len(summary.values[quantity])
                error = None if spread is None else spread / math.sqrt(count)
                point = f"stage {summary.stage}" if summary.stage else "untrained"
                kind = "mean" if count > 1 else "one draw"
                found.append(Result(summary.label or STUDENT, point, quantity, value, error, kind))
        return found


def _together(loaded: Sequence[tuple[LabelledRun, list[Row]]]) -> list[Row]:
    """The rows of several runs of one teacher, each student with the label of its run, and the first's baselines."""
    first_run, first = loaded[0]
    if len(loaded) == 1:
        return first
    rows: list[Row] = []
    for run, table in loaded:
        if accuracies(table) != accuracies(first):
            raise ConfigError(
                f"{run.directory} has another teacher, or other baselines, than {first_run.directory}; "
                "draw their figures one by one"
            )
        for row in table:
            if row.get("model") == STUDENT:
                own = row.get("student")
                row["student"] = f"{run.label}: {own}" if own else run.label
                rows.append(row)
            elif table is first:
                rows.append(row)
    return rows


def _chosen(table: list[Row], request: PlotRequest) -> list[Row]:
    """The rows of the students that were asked for, in that order, with the labels that were asked for."""
    if not request.curves and not request.labels:
        return table
    names = list(dict.fromkeys(row["student"] for row in table if row.get("model") == STUDENT))
    shown = [name or STUDENT for name in names]
    labels = renamed(shown, request.labels)
    rows = [row for row in table if row.get("model") != STUDENT]
    for place in chosen(shown, request.curves):
        mine = [row for row in table if row.get("model") == STUDENT and row["student"] == names[place]]
        for row in mine:
            row["student"] = labels[place] if names[place] or shown[place] in request.labels else ""
        rows += mine
    return rows


STUDY = RecordedDistillations()
