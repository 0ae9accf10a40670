"""Recorded probes: their figures are drawn, and their results listed, from the table alone."""

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
from lab.experiments.probe.figures import FIGURES, drawn
from lab.experiments.probe.results import Results
from lab.experiments.probe.rows import Row


def load(directory: Path) -> list[Row]:
    """The rows of a recorded table; what a row does not have is None.

    Raises:
        RunError: if it is missing or damaged, or another version of lab wrote it.
    """
    refuse_other_version(directory)
    rows: list[dict[str, Any]] = read_table(directory).to_pylist()
    if any("curve" not in row or "kind" not in row for row in rows):
        raise RunError(f"{directory / 'table.parquet'} is not the table of a probe; `lab runs` lists them")
    return [cast("Row", row) for row in rows]


class RecordedProbes:
    """See `RecordedStudy`."""

    def figures(self) -> list[str]:
        """The names of all figures."""
        return list(FIGURES)

    def draw(self, name: str, runs: Sequence[LabelledRun], request: PlotRequest) -> Drawn | None:
        """Draw a figure of one or several runs; see `RecordedStudy.draw`."""
        rows: list[Row] = []
        for run in runs:
            before = f"{run.label}: " if run.label else ""
            rows += [cast("Row", {**row, "curve": f"{before}{row['curve']}"}) for row in load(run.directory)]
        curves = list(dict.fromkeys(row["curve"] for row in rows))
        labels = renamed(curves, request.labels)
        named = {curves[place]: labels[place] for place in chosen(curves, request.curves)}
        kept = [cast("Row", {**row, "curve": new}) for old, new in named.items() for row in rows if row["curve"] == old]
        figure = drawn(name, Results.of(kept))
        if figure is not None:
            set_axes(figure.figure, request.axes)
        return figure

    def results(self, directory: Path) -> list[Result]:
        """The risk of every head; see `RecordedStudy.results`."""
        return [
            Result(
                point.curve,
                f"n = {point.num_train}, p = {point.width}, ridge {point.ridge:g}",
                "risk",
                point.mean,
                float(point.risks.std(ddof=1)) / point.risks.size**0.5 if point.summary == "mean" else None,
                point.summary,
            )
            for point in Results.of(load(directory)).points
        ]


STUDY = RecordedProbes()
