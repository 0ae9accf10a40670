"""Recorded sweeps: their curves and theory lines from the tables of the run, and the figures that these give."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from lab.core.errors import ConfigError, RunError
from lab.core.runs.axes import set_axes
from lab.core.runs.chosen import chosen, renamed
from lab.core.runs.figures import Drawn
from lab.core.runs.find import refuse_other_version
from lab.core.runs.json_files import read_json_object
from lab.core.runs.parquet import read_table
from lab.core.runs.recorded_study import LabelledRun, PlotRequest, Result
from lab.core.streams import say
from lab.experiments.hmm_risk.results.figure_spec import FigureData, FigureSpec, Line, figure_data
from lab.experiments.hmm_risk.results.figures import figure, figure_names
from lab.experiments.hmm_risk.results.short_labels import short_labels
from lab.experiments.hmm_risk.results.summary import Curve, curves
from lab.experiments.hmm_risk.theory_lines.table import read_lines

# the label of a curve that is the only one of its run
_ONLY = "measured"
_RESULTS = ("excess_risk", "bias", "variance", "prediction_risk", "accuracy", "log_loss")


def load(directory: Path) -> FigureData:
    """The data of a recorded sweep.

    Raises:
        RunError: if a file of it is missing or damaged, or another version of lab wrote it.
    """
    refuse_other_version(directory)
    config = read_json_object(directory / "config.json", hint="if this is not a run, `lab runs` lists them")
    rows = read_table(directory).to_pylist()
    try:
        return figure_data(
            curves(rows),
            read_lines(directory),
            per_output=config["per_output"],
            seed=config["seed"],
            num_classes={row["num_outputs"] for row in rows if row.get("accuracy") is not None},
        )
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise RunError(f"{directory}: config.json or table.parquet is damaged ({error!r}); run it again") from error


class RecordedSweeps:
    """See `RecordedStudy`."""

    def figures(self) -> list[str]:
        """The names of all figures."""
        return figure_names()

    def draw(self, name: str, runs: Sequence[LabelledRun], request: PlotRequest) -> Drawn | None:
        """Draw a figure of one or several sweeps; see `RecordedStudy.draw`."""
        spec = figure(name)
        data = _chosen(_together([(run, load(run.directory)) for run in runs]), request)
        _refuse_missing(name, spec, data)
        if spec.has_lines and not all(curve.label in data.lines for curve in data.curves if _has_line(curve)):
            say(f"figure {name}: a run has no theory between its dots, which are joined by straight lines instead")
        drawn = spec.drawn(data)
        set_axes(drawn.figure, request.axes)
        return drawn

    def results(self, directory: Path) -> list[Result]:
        """Every measured number of a sweep; see `RecordedStudy.results`."""
        data = load(directory)
        return [result for curve in data.curves for name in _RESULTS for result in _results(curve, name)]


def _has_line(curve: Curve) -> bool:
    return not curve.is_reference and "excess_risk" in curve.theory and curve.x["width"].size > 1


def _results(curve: Curve, quantity: str) -> list[Result]:
    if quantity not in curve.mean or not curve.num_draws:
        return []
    contexts = curve.x["context_length"]
    several_contexts = bool(np.ptp(contexts))
    found = []
    for k, width in enumerate(curve.x["width"]):
        has_mean = bool(curve.has_mean[k])
        error = float(curve.standard_error[quantity][k])
        found.append(
            Result(
                curve.name,
                f"p = {width:.0f}" + (f", context {contexts[k]:.0f}" if several_contexts else ""),
                quantity,
                float(curve.centre(quantity)[k]),
                error if has_mean and np.isfinite(error) else None,
                "mean" if has_mean else "median",
            )
        )
    return found


def _together(loaded: Sequence[tuple[LabelledRun, FigureData]]) -> FigureData:
    """The curves of several runs, each with the label of its run."""
    first = loaded[0][1]
    if len(loaded) == 1:
        return first
    every_curve: list[Curve] = []
    lines: dict[str, Line] = {}
    for run, data in loaded:
        if data.unit != first.unit:
            raise ConfigError(
                f"{run.directory} has risks {data.unit}, {loaded[0][0].directory} {first.unit}; draw them one by one"
            )
        # words that tell no curve of the run from another would only repeat themselves
        names = short_labels([curve.label for curve in data.curves]) if len(data.curves) > 1 else [""]
        for curve, name in zip(data.curves, names, strict=True):
            label = f"{run.label}: {name}" if name and name != _ONLY else run.label
            every_curve.append(replace(curve, label=label))
            if curve.label in data.lines:
                lines[label] = data.lines[curve.label]
    classes = {data.num_classes for _, data in loaded}
    return FigureData(
        every_curve,
        first.unit,
        lines,
        seeds=[seed for _, data in loaded for seed in data.seeds],
        num_classes=classes.pop() if len(classes) == 1 else None,
    )


def _chosen(data: FigureData, request: PlotRequest) -> FigureData:
    """The curves that were asked for, with the labels that were asked for."""
    full = [curve.label for curve in data.curves]
    short = short_labels(full)
    labels = renamed(full, request.labels, short=short)
    places = chosen(full, request.curves, short=short)
    return replace(
        data,
        curves=[replace(data.curves[place], label=labels[place]) for place in places],
        lines={labels[place]: data.lines[full[place]] for place in places if full[place] in data.lines},
    )


def _refuse_missing(name: str, spec: FigureSpec, data: FigureData) -> None:
    for curve in data.curves:
        known = {*curve.mean, *(f"theory_{column}" for column in curve.theory)}
        if curve.num_draws == 0:
            known |= set(curve.theory)
        missing = [column for column in spec.columns if column not in known]
        if missing:
            raise ConfigError(
                f"--figure {name}: it draws {missing[0]}, which {curve.label} does not have; choose another"
            )


STUDY = RecordedSweeps()
