"""Learning curves of every student of a run, one panel for each stage, drawn from its table."""

import io
from collections.abc import Sequence
from itertools import groupby
from statistics import fmean
from typing import Any

from matplotlib.axes import Axes

from lab.core.report.content import Picture
from lab.core.runs.curve_styles import MARKERS, PALETTE
from lab.core.runs.figures import house_style, new_figure

# with more students than this, training losses would hide each other
_MOST_WITH_TRAINING = 2

# dots an inch: three panels are as wide as a page
_DOTS = 120

_STAGES = ("teacher", "stage 1", "stage 2", "stage 3")


def learning_curves(name: str, rows: Sequence[dict[str, Any]]) -> Picture | None:
    """A picture of the losses by step; None if nothing was trained.

    Args:
        name: of the picture.
        rows: of kind train and validation.
    """
    stages = sorted({row["stage"] or 0 for row in rows})
    if not stages:
        return None
    students = list(dict.fromkeys(row["student"] or "" for row in rows))
    has_training = len(students) <= _MOST_WITH_TRAINING
    with house_style():
        figure, panels = new_figure(num_panels=len(stages))
        for axes, stage in zip(panels, stages, strict=True):
            for index, student in enumerate(students):
                mine = [row for row in rows if (row["stage"] or 0) == stage and (row["student"] or "") == student]
                _draw(axes, mine, student or "held out", index, has_training=has_training)
            losses = [row["loss"] for row in rows if (row["stage"] or 0) == stage]
            # within a decade, a logarithmic axis has no plain ticks
            if min(losses) > 0 and max(losses) > 10 * min(losses):
                axes.set_yscale("log")
            axes.set_title(_STAGES[stage])
            axes.set_xlabel("step")
        panels[0].set_ylabel("loss")
        figure.legend(*_legend(panels), loc="outside lower center", ncols=4)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=_DOTS)
    training = "thin lines are training losses of the first replicate, " if has_training else ""
    return Picture(
        name=name,
        png=buffer.getvalue(),
        alt=f"Loss by training step, one panel for each of {len(stages)} stages, {len(students)} students",
        caption=f"Loss by step and stage: {training}dots held-out losses, the mean over replicates.",
    )


def _draw(axes: Axes, rows: Sequence[dict[str, Any]], label: str, index: int, *, has_training: bool) -> None:
    colour = PALETTE[index % len(PALETTE)]
    if has_training:
        first = [row for row in rows if row["kind"] == "train" and not row["replicate"]]
        axes.plot(
            [row["step"] for row in first], [row["loss"] for row in first], color=colour, linewidth=0.5, alpha=0.6
        )
    held_out = sorted((row for row in rows if row["kind"] == "validation"), key=lambda row: row["step"])
    points = [(step, fmean(row["loss"] for row in at)) for step, at in groupby(held_out, key=lambda row: row["step"])]
    if points:
        style: dict[str, Any] = {"marker": MARKERS[index % len(MARKERS)], "markersize": 3, "color": colour}
        axes.plot(*zip(*points, strict=True), **style, label=label)


def _legend(panels: Sequence[Axes]) -> tuple[list[Any], list[str]]:
    """The curves of all panels, each once."""
    found: dict[str, Any] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    return list(found.values()), list(found)
