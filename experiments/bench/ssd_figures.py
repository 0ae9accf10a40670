"""Figures of `lab bench ssd`: time by length, and where the operator becomes faster than attention."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullLocator

from lab.core.runs.curve_styles import MARKERS, PALETTE
from lab.core.runs.figures import Drawn, house_style, new_figure, save_figure
from lab.experiments.bench.harness import Row
from lab.experiments.bench.ssd_attention import ATTENTION
from lab.experiments.bench.ssd_memory import OURS

# height of a line of the legend below the panels
_LEGEND_INCHES = 0.15


@dataclass(frozen=True, slots=True)
class Measured:
    """The rows of one kind of case, one case per length.

    Attributes:
        title: what was timed.
        rows: for each length, ascending.
        crossover: length from which ours is faster than attention, if determined.
    """

    title: str
    rows: Mapping[int, Sequence[Row]]
    crossover: float | None = None


def draw_lengths(directory: Path, name: str, panels: Sequence[Measured], labels: Mapping[str, str]) -> None:
    """Medians by length, log-log, one panel each; bars show the quartiles of the repeats.

    Args:
        directory: of the figure.
        name: of its files.
        panels: side by side.
        labels: names of curves that differ from the candidates' names.
    """
    names = list(dict.fromkeys(row.candidate for panel in panels for rows in panel.rows.values() for row in rows))
    # ours and attention are in every figure, with the same style
    names.sort(key=lambda name: (name != OURS, name != ATTENTION))
    with house_style():
        figure, axes = new_figure(num_panels=len(panels))
        curves: dict[str, Line2D] = {}
        for axis, panel in zip(axes, panels, strict=True):
            curves |= _draw(axis, panel, names)
        num_columns = len(panels)
        figure.set_figheight(figure.get_figheight() + _LEGEND_INCHES * math.ceil(len(curves) / num_columns))
        figure.legend(
            list(curves.values()),
            [labels.get(key, key) for key in curves],
            loc="outside lower center",
            ncols=num_columns,
        )
        save_figure(Drawn(figure, _columns(panels)), directory, name)


def _draw(axis: Axes, panel: Measured, names: Sequence[str]) -> dict[str, Line2D]:
    """Draws a panel; returns a line of each curve for the legend."""
    curves = {}
    for i, name in enumerate(names):
        points = [
            (length, row.median_s, row.quartiles_s)
            for length, rows in panel.rows.items()
            for row in rows
            if row.candidate == name and row.median_s is not None and row.quartiles_s is not None
        ]
        if not points:
            continue
        lengths, medians, quartiles = zip(*points, strict=True)
        below = [1e3 * (median - lower) for median, (lower, _) in zip(medians, quartiles, strict=True)]
        above = [1e3 * (upper - median) for median, (_, upper) in zip(medians, quartiles, strict=True)]
        curves[name] = axis.errorbar(
            lengths,
            [1e3 * median for median in medians],
            yerr=(below, above),
            color=PALETTE[i],
            marker=MARKERS[i],
            markersize=3,
        )[0]
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.xaxis.set_major_formatter(FuncFormatter(lambda length, _: _short(length)))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_formatter(FuncFormatter(lambda time_ms, _: f"{time_ms:,g}"))
    axis.set_xlabel("tokens")
    axis.set_ylabel("median time (ms)")
    axis.set_title(panel.title.capitalize())
    if panel.crossover is not None:
        axis.axvline(panel.crossover, color="black", linestyle=":")
        axis.annotate(
            f" {panel.crossover:.0f} tokens", (panel.crossover, 0.03), xycoords=("data", "axes fraction"), fontsize=7
        )
    return curves


def _short(length: float) -> str:
    return f"{length / 1024:g}K" if length >= 1024 else f"{length:g}"


def _columns(panels: Sequence[Measured]) -> dict[str, list[Any]]:
    points = [
        (panel.title, row.candidate, length, row.median_s, *row.quartiles_s)
        for panel in panels
        for length, rows in panel.rows.items()
        for row in rows
        if row.median_s is not None and row.quartiles_s is not None
    ]
    names = ("mode", "candidate", "num_tokens", "median_s", "lower_quartile_s", "upper_quartile_s")
    return {name: [point[i] for point in points] for i, name in enumerate(names)}
