"""The study's figures: error by layer, loss by step, accuracy by stage, and the benefit of softmax layers."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lab.core.runs.curve_styles import MARKERS, PALETTE
from lab.core.runs.figures import Drawn, LineStyle, legend_below, new_figure
from lab.experiments.distill.captions import caption
from lab.experiments.distill.report import accuracies
from lab.experiments.distill.rows import Quantity, Row, TrainRow, ValidationRow
from lab.experiments.distill.seeds import estimate
from lab.experiments.distill.summary import STUDENT, Summary, summaries

Columns = dict[str, list[object]]
Plotted = tuple[Figure, Columns]

# letters of all labels below a panel that fit into a line
_MOST_LETTERS = 50

_STAGES = ("untrained", "stage 1", "stage 2", "stage 3")


def layer_error(table: Sequence[Row]) -> Plotted | None:
    """Relative error of each layer's head outputs after each stage of the first student, on the teacher's inputs."""
    rows = [row for row in _of_first(table) if row["kind"] == "layer"]
    if not rows:
        return None
    figure, (axes,) = new_figure(num_panels=1)
    for stage in sorted({row["stage"] for row in rows}):
        mine = [row for row in rows if row["stage"] == stage]
        axes.plot(
            [row["layer"] for row in mine],
            [math.nan if row["relative_error"] is None else row["relative_error"] for row in mine],
            **_style(stage),
            label=_STAGES[stage],
        )
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("layer")
    axes.set_ylabel("relative error of head outputs")
    axes.legend()
    return figure, _columns(rows, ("stage", "layer", "name", "relative_error", "layer_mse"))


def loss(table: Sequence[Row]) -> Plotted | None:
    """Training loss by step, one panel per stage of the first student; dots are held-out losses."""
    rows = [row for row in _of_first(table) if row["kind"] == "train" or row["kind"] == "validation"]
    if not rows:
        return None
    stages = sorted({row.get("stage", 0) for row in rows})
    figure, panels = new_figure(num_panels=len(stages))
    for axes, stage in zip(panels, stages, strict=True):
        mine = [row for row in rows if row.get("stage", 0) == stage]
        _draw_loss(axes, mine)
        axes.set_title(_STAGES[stage] if stage else "teacher")
    panels[0].set_ylabel("loss")
    panels[0].legend()
    return figure, _columns(rows, ("stage", "kind", "step", "loss"))


def accuracy(table: Sequence[Row]) -> Plotted | None:
    """Accuracy after each stage; horizontal lines are the teacher and the training-free baselines."""
    found = summaries(table)
    if not found:
        return None
    figure, (axes,) = new_figure(num_panels=1)
    columns: Columns = {"student": [], "stage": [], "accuracy": [], "half_width": []}
    for index, label in enumerate(dict.fromkeys(summary.label for summary in found)):
        mine = [summary for summary in found if summary.label == label]
        points = [summary.mean("accuracy") or 0.0 for summary in mine]
        widths = [_half_width(summary, "accuracy") for summary in mine]
        stages = [summary.stage for summary in mine]
        axes.errorbar(
            stages, [100 * y for y in points], [100 * y for y in widths], **_style(index), label=label or STUDENT
        )
        for point in zip([label] * len(mine), stages, points, widths, strict=True):
            _append(columns, point)
    _baselines(axes, table, columns)
    axes.set_xticks(range(len(_STAGES)), _STAGES)
    _percent_axis(axes)
    legend_below(figure, axes, num_columns=2)
    return figure, columns


def trade_off(table: Sequence[Row]) -> Plotted | None:
    """Accuracy and divergence of every student after its last stage, by its number of softmax layers."""
    finals = [summary for summary in summaries(table) if summary.is_last]
    if not finals:
        return None
    figure, (left, right) = new_figure(num_panels=2)
    columns: Columns = {
        "student": [],
        "num_softmax": [],
        "accuracy": [],
        "half_width": [],
        "kl_per_answer_token": [],
        "kl_half_width": [],
    }
    reference, lowest, highest = accuracies(table), 1.0, 0.0
    for index, summary in enumerate(finals):
        right_of, kl = summary.mean("accuracy") or 0.0, summary.mean("kl_per_answer_token") or 0.0
        width, kl_width = _half_width(summary, "accuracy"), _half_width(summary, "kl_per_answer_token")
        label = summary.label or "student"
        left.errorbar(summary.num_softmax, 100 * right_of, 100 * width, **_style(index, line=""), label=label)
        right.errorbar(summary.num_softmax, kl, kl_width, **_style(index, line=""))
        _append(columns, (summary.label, summary.num_softmax, right_of, width, kl, kl_width))
        lowest, highest = min(lowest, right_of - width), max(highest, kl + kl_width)
    left.axhline(100 * reference["teacher"], color="0.4", linewidth=0.8, linestyle="--")
    numbers = {summary.num_softmax for summary in finals}
    for axes in (left, right):
        axes.set_xlabel("layers of softmax attention")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        if len(numbers) == 1:
            axes.set_xlim(min(numbers) - 0.5, min(numbers) + 0.5)
    _percent_axis(left)
    # whole steps of five below the lowest bar: between good students, differences are small
    left.set_ylim(max(0, 5 * math.floor(20 * lowest - 0.5)), 100)
    left.legend()
    right.set_ylabel("KL per answer token (nats)")
    # room above the highest: from zero, matplotlib's own margin is cut
    right.set_ylim(0, 1.1 * highest or None)
    return figure, columns


def students(table: Sequence[Row]) -> Plotted | None:
    """Accuracy and divergence of every student after its last stage, side by side; bars are 95 % intervals."""
    finals = [summary for summary in summaries(table) if summary.is_last]
    if not finals:
        return None
    figure, (left, right) = new_figure(num_panels=2)
    names = ("student", "accuracy", "half_width", "kl_per_answer_token", "kl_half_width")
    columns: Columns = {name: [] for name in names}
    for index, summary in enumerate(finals):
        share, width = summary.mean("accuracy") or 0.0, _half_width(summary, "accuracy")
        kl, kl_width = summary.mean("kl_per_answer_token") or 0.0, _half_width(summary, "kl_per_answer_token")
        left.errorbar(index, 100 * share, 100 * width, **_style(index, line=""))
        right.errorbar(index, kl, kl_width, **_style(index, line=""))
        _append(columns, (summary.label, share, width, kl, kl_width))
    _baselines(left, table, columns)
    labels = [summary.label or "student" for summary in finals]
    # else they would run into each other
    is_turned = sum(map(len, labels)) > _MOST_LETTERS
    for axes in (left, right):
        axes.set_xticks(range(len(finals)), labels)
        for label in axes.get_xticklabels() if is_turned else ():
            label.set(rotation=30, ha="right", rotation_mode="anchor")
        axes.set_xlim(-0.5, len(finals) - 0.5)
    _percent_axis(left)
    legend_below(figure, left, num_columns=4)
    _decades(right, [summary.mean("kl_per_answer_token") or 0.0 for summary in finals])
    right.set_ylabel("KL per answer token (nats)")
    return figure, columns


FIGURES: dict[str, Callable[[Sequence[Row]], Plotted | None]] = {
    function.__name__: function for function in (layer_error, loss, accuracy, trade_off, students)
}


def drawn(name: str, table: Sequence[Row]) -> Drawn | None:
    """A figure with its caption; None if the table holds nothing that it shows."""
    plotted = FIGURES[name](table)
    return None if plotted is None else Drawn(*plotted, caption(name, table))


def _of_first(table: Sequence[Row]) -> list[Row]:
    """Rows of the first student's first replicate; without students, of a new teacher."""
    first = next((row["student"] for row in table if row.get("model") == STUDENT), None)
    return [row for row in table if row.get("student") == first and row.get("replicate", 0) == 0]


def _draw_loss(axes: Axes, rows: Sequence[TrainRow | ValidationRow]) -> None:
    styles: dict[Literal["train", "validation"], LineStyle] = {
        "train": {"label": "training", "color": PALETTE[0], "linewidth": 0.7},
        "validation": {"label": "held out", "color": PALETTE[1], "marker": "o", "linestyle": "", "markersize": 3},
    }
    for kind, style in styles.items():
        points = [(row["step"], row["loss"]) for row in rows if row["kind"] == kind]
        axes.plot([step for step, _ in points], [value for _, value in points], **style)
    _decades(axes, [row["loss"] for row in rows])
    axes.set_xlabel("step")


def _baselines(axes: Axes, table: Sequence[Row], columns: Columns) -> None:
    for index, (name, value) in enumerate(accuracies(table).items()):
        style = ("--", ":", "-.", (0, (1, 3)))[index % 4]
        axes.axhline(100 * value, color="0.4", linewidth=0.8, linestyle=style, label=name)
        known = {"student": name, "accuracy": value}
        _append(columns, [known.get(key) for key in columns])


def _half_width(summary: Summary, quantity: Quantity) -> float:
    """Half the width of the mean's 95 % interval; 0, which shows no bar, for one replicate."""
    return estimate(summary.values[quantity]).half_width or 0.0


def _append(columns: Columns, point: Sequence[object]) -> None:
    for values, entry in zip(columns.values(), point, strict=True):
        values.append(entry)


def _decades(axes: Axes, values: Sequence[float]) -> None:
    """A logarithmic axis if the values span a decade; within one, it would have no plain ticks."""
    positive = [value for value in values if value > 0]
    if len(positive) == len(values) and max(positive) > 10 * min(positive):
        axes.set_yscale("log")


def _percent_axis(axes: Axes) -> None:
    axes.set_ylabel("right answers, held out (%)")
    axes.set_ylim(0, 100)


def _style(index: int, *, line: str = "-") -> LineStyle:
    marker = MARKERS[index % len(MARKERS)]
    return {"color": PALETTE[index % len(PALETTE)], "marker": marker, "markersize": 3, "linestyle": line}


def _columns(rows: Sequence[Mapping[str, object]], names: Sequence[str]) -> Columns:
    return {name: [row.get(name) for row in rows] for name in names}
