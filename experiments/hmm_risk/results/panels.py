"""Parts of figures: panels of one quantity against model size, points with error bars, legends."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float64
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from numpy import ndarray

from lab.core.runs.figures import MARKERS, PALETTE, new_figure
from lab.experiments.hmm_risk.results.figure_spec import Columns, FigureData, FigureSpec
from lab.experiments.hmm_risk.results.summary import Curve

_MOST_INSIDE = 4
_LONGEST_IN_TWO_COLUMNS = 24


@dataclass(frozen=True, slots=True)
class Panel:
    """One quantity against model size.

    Attributes:
        column: of the table; its theory, if any, is the column theory_<column>.
        label: of the y axis.
        scale: of the y axis.
        has_unit: whether the unit of risks is appended to the label.
        top: upper end of the y axis: above everything, above the highest point, or low enough to show a sweet spot next
            to the peak.
    """

    column: str
    label: str
    scale: Literal["log", "linear"] = "log"
    has_unit: bool = True
    top: Literal["all", "centre", "sweet spot"] = "all"


EXCESS_RISK = Panel("excess_risk", "excess risk", top="centre")
TOTAL_RISK = Panel("prediction_risk", "total prediction risk", top="sweet spot")


def panels(*shown: Panel) -> FigureSpec:
    """A figure of panels side by side, with one legend."""

    def draw(data: FigureData) -> tuple[Figure, Columns]:
        figure, every_axes = new_figure(num_panels=len(shown))
        columns: Columns = {}
        for number, (axes, panel) in enumerate(zip(every_axes, shown, strict=True)):
            draw_curves(axes, data, panel, columns=columns)
            finish(axes, data, panel, with_legend=number == 0)
        return figure, columns

    return FigureSpec(columns=tuple(panel.column for panel in shown), draw=draw)


def draw_curves(axes: Axes, data: FigureData, panel: Panel, *, columns: Columns | None = None) -> Columns:
    """Plot points and theory of every curve against gamma; returns `columns` extended by the plotted numbers."""
    quantity = panel.column
    columns = {} if columns is None else columns
    for index, curve in enumerate(data.curves):
        x = curve.x["gamma"]
        draw_points(axes, curve, x, quantity, index)
        theory = curve.theory.get(quantity, np.full(x.size, np.nan))
        style = ":" if curve.is_reference else "-"
        # the asymptotic line is infinite at the threshold: draw it as two lines
        for side in (x < 1, x > 1):
            axes.plot(x[side], theory[side], style, color=colour(index), zorder=3)
        collect(columns, curve, quantity, {"gamma": x, "width": curve.x["width"]})
    if any(quantity in curve.theory for curve in data.curves):
        is_reference = data.curves[0].is_reference
        name = "Gaussian reference" if is_reference else "theory"
        axes.plot([], [], ":" if is_reference else "-", color="0.35", label=name)
    return columns


def draw_points(axes: Axes, curve: Curve, x: Float64[ndarray, " k"], quantity: str, index: int) -> None:
    """Mean and standard error; within three rows of p = n, where neither exists, median and 10 to 90 % range."""
    shade, marker = colour(index), MARKERS[index % len(MARKERS)]
    near = ~curve.has_mean
    mean, median = curve.mean[quantity], curve.median[quantity]
    error = curve.standard_error[quantity]
    axes.errorbar(x[~near], mean[~near], error[~near], fmt=marker, color=shade, label=curve.label, markersize=3)
    spread = np.abs(np.array([median - curve.low[quantity], curve.high[quantity] - median]))
    axes.errorbar(x[near], median[near], spread[:, near], fmt=marker, color=shade, mfc="white", markersize=3)


def finish(axes: Axes, data: FigureData, panel: Panel, *, with_legend: bool = True) -> None:
    """Axes, limits and legend of a panel against gamma."""
    axes.axvline(1.0, color="0.6", linewidth=0.8, linestyle=":", zorder=0)
    gamma_axis(axes, data.curves)
    zeros, has_others = _zeros(data, panel.column)
    is_log = panel.scale == "log" and has_others
    axes.set_yscale("log" if is_log else "linear")
    if panel.scale == "log" and zeros:
        # a logarithmic axis cannot show them, and a gap looks like a fault
        where = f"zero up to γ = {max(zeros):.3g}" if has_others else "zero throughout"
        axes.annotate(where, (0.04, 0.05), xycoords="axes fraction", fontsize=6)
    axes.set_ylabel(panel.label + (f" {data.unit}" if panel.has_unit else ""))
    if panel.top == "sweet spot":
        _cut_peak(axes, data, panel.column)
    elif panel.top == "centre":
        # the 10 to 90 % range at p = n spans decades above its median
        axes.set_ylim(top=3 * max(float(finite.max()) for finite in _finite_centres(data, panel.column)))
    if is_log:
        _plain_risk_axis(axes)
    if with_legend and (len(data.curves) > 1 or data.curves[0].label != "measured"):
        add_legend(axes, len(data.curves))


def _zeros(data: FigureData, quantity: str) -> tuple[list[float], bool]:
    """Sizes gamma at which a quantity is zero, and whether it is above zero anywhere."""
    points = [
        (float(x), float(y))
        for curve in data.curves
        for x, y in zip(curve.x["gamma"], curve.centre(quantity), strict=True)
    ]
    return [x for x, y in points if y == 0], any(y > 0 for _, y in points)


def add_legend(axes: Axes, num_curves: int) -> None:
    """A legend inside the panel if there is room, else below the panels."""
    if num_curves <= _MOST_INSIDE:
        axes.legend()
        return
    handles, labels = axes.get_legend_handles_labels()
    figure = axes.get_figure(root=True)
    assert figure is not None, "the panel is part of a figure"
    num_columns = 2 if max(map(len, labels)) <= _LONGEST_IN_TWO_COLUMNS else 1
    figure.legend(handles, labels, loc="outside lower center", ncols=num_columns, columnspacing=1.0)
    width, height = figure.get_size_inches()
    figure.set_size_inches(width, height + 0.14 * -(-num_curves // num_columns))


def _finite_centres(data: FigureData, quantity: str) -> list[Float64[ndarray, " k"]]:
    """The numbers of every curve; without draws, theory is infinite at p = n."""
    centres = [curve.centre(quantity) for curve in data.curves]
    return [centre[np.isfinite(centre)] for centre in centres]


def _cut_peak(axes: Axes, data: FigureData, quantity: str) -> None:
    """Cut off the peak, with a note: on its scale a sweet spot would be a flat line."""
    centres = _finite_centres(data, quantity)
    lowest = min(float(finite.min()) for finite in centres)
    start = max(float(finite[0]) for finite in centres)
    top = max(10 * lowest, 3 * start)
    if axes.get_ylim()[1] > top:
        axes.set_ylim(top=top)
        axes.annotate("peak leaves the axis", (1.0, top), (5, 2), textcoords="offset points", fontsize=6)


def _plain_risk_axis(axes: Axes) -> None:
    """Plain numbers if the axis spans few decades, since powers of ten would leave one tick."""
    low, high = axes.get_ylim()
    axes.yaxis.set_minor_formatter(NullFormatter())
    if high < 300 * low:
        ticks = [m * 10.0**e for e in range(-6, 7) for m in (1, 2, 5) if low <= m * 10.0**e <= high]
        axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])


def gamma_axis(axes: Axes, curves: Sequence[Curve]) -> None:
    """Logarithmic, with plain numbers such as 0.5 and 2 instead of powers of ten."""
    low = min(float(curve.x["gamma"].min()) for curve in curves)
    high = max(float(curve.x["gamma"].max()) for curve in curves)
    ticks = [m * 10.0**e for e in range(-4, 5) for m in (1, 2, 5) if low / 1.2 <= m * 10.0**e <= high * 1.2]
    axes.set_xscale("log")
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("model size γ = p / n")


def collect(columns: Columns, curve: Curve, quantity: str, x: dict[str, Float64[ndarray, " k"]]) -> None:
    """Append the plotted numbers of one curve, one row per point."""
    block = {
        **x,
        "mean": curve.mean[quantity],
        "standard_error": curve.standard_error[quantity],
        "median": curve.median[quantity],
        "low": curve.low[quantity],
        "high": curve.high[quantity],
        "theory": curve.theory.get(quantity, np.full(curve.has_mean.size, np.nan)),
        "independent_rows": curve.theory.get("independent_rows", np.full(curve.has_mean.size, np.nan)),
    }
    size = curve.has_mean.size
    columns.setdefault("curve", []).extend([curve.label] * size)
    columns.setdefault("quantity", []).extend([quantity] * size)
    for name, values in block.items():
        columns.setdefault(name, []).extend(float(value) for value in values)


def colour(index: int) -> str:
    """The colour of curve number `index`."""
    return PALETTE[index % len(PALETTE)]
