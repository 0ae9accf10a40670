"""Parts of figures: panels of one quantity against model size, points with error bars, theory and baselines."""

# Letters: k points of a curve.

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float64
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy import ndarray

from lab.core.runs.axes import plain_ticks
from lab.core.runs.curve_styles import CurveStyle
from lab.core.runs.figures import new_figure
from lab.experiments.hmm_risk.results.caption import caption
from lab.experiments.hmm_risk.results.figure_spec import Columns, FigureData, FigureSpec
from lab.experiments.hmm_risk.results.legend import add_legend
from lab.experiments.hmm_risk.results.reference_lines import draw_baselines, draw_theory, plotted_theory
from lab.experiments.hmm_risk.results.short_labels import short_labels
from lab.experiments.hmm_risk.results.summary import Curve

# medians of several curves at one size are drawn beside each other, within this factor
_DODGE = 1.06
# how far below the lowest point lines are shown
_BELOW = 4.0
# behind a note, so that it can be read on a line
_PAPER = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.0}


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


def panels(*shown: Panel, shows: str) -> FigureSpec:
    """A figure of panels side by side, with one legend; `shows` is the first sentence of its caption."""

    def draw(data: FigureData) -> tuple[Figure, Columns]:
        figure, every_axes = new_figure(num_panels=len(shown))
        columns: Columns = {}
        for axes, panel in zip(every_axes, shown, strict=True):
            draw_curves(axes, data, panel, columns=columns)
            finish(axes, data, panel)
        add_legend(every_axes)
        return figure, columns

    quantities = [panel.column for panel in shown]
    return FigureSpec(
        columns=tuple(quantities), draw=draw, caption=lambda data: caption(shows, data, quantities=quantities)
    )


def draw_curves(axes: Axes, data: FigureData, panel: Panel, *, columns: Columns | None = None) -> Columns:
    """Plot points, theory and baselines against gamma; returns `columns` extended by the plotted numbers."""
    quantity = panel.column
    columns = {} if columns is None else columns
    names = short_labels([curve.label for curve in data.curves])
    for index, (curve, style, name) in enumerate(zip(data.curves, data.styles(), names, strict=True)):
        x = curve.x["gamma"]
        draw_points(axes, curve, x, quantity, style, label=name, place=(index, len(data.curves)))
        collect(columns, curve, quantity, {"gamma": x, "width": curve.x["width"]})
    draw_theory(axes, data, quantity)
    draw_baselines(axes, data, quantity)
    return columns


def draw_points(
    axes: Axes,
    curve: Curve,
    x: Float64[ndarray, " k"],
    quantity: str,
    style: CurveStyle,
    *,
    label: str,
    place: tuple[int, int] = (0, 1),
) -> None:
    """Mean and standard error; where no mean is meaningful, median and 10 to 90 % range, with a hollow marker.

    Args:
        axes: to draw into.
        curve: whose points they are.
        x: of each point.
        quantity: on the y axis.
        style: of the curve.
        label: in the legend.
        place: number of the curve and number of curves: hollow markers of several are drawn beside each other.
    """
    if curve.num_draws == 0 or quantity not in curve.mean:
        # theory alone: the line has the name
        axes.plot([], [], color=style.color, label=label)
        return
    near = ~curve.has_mean
    mean, median, error = curve.mean[quantity], curve.median[quantity], curve.standard_error[quantity]
    axes.errorbar(
        x[~near],
        mean[~near],
        error[~near],
        fmt=style.marker,
        color=style.color,
        label=label,
        markersize=3,
        elinewidth=0.8,
    )
    number, count = place
    beside = x * _DODGE ** ((number - (count - 1) / 2) / max(count - 1, 1))
    spread = np.abs(np.array([median - curve.low[quantity], curve.high[quantity] - median]))
    axes.errorbar(
        beside[near],
        median[near],
        spread[:, near],
        fmt=style.marker,
        color=style.color,
        mfc="white",
        markersize=3,
        elinewidth=0.6,
    )
    if curve.is_reference or quantity not in curve.theory:
        # no theory leads from dot to dot
        axes.plot(x, curve.centre(quantity), color=style.color, linewidth=0.5, alpha=0.6, zorder=1.5)


def finish(axes: Axes, data: FigureData, panel: Panel) -> None:
    """Axes, limits and notes of a panel against gamma."""
    axes.axvline(1.0, color="0.6", linewidth=0.8, linestyle=":", zorder=0)
    gamma_axis(axes, data.curves)
    zeros, has_others = _zeros(data, panel.column)
    is_log = panel.scale == "log" and has_others
    axes.set_yscale("log" if is_log else "linear")
    if panel.scale == "log" and zeros:
        # a logarithmic axis cannot show them, and a gap looks like a fault
        where = f"zero up to γ = {max(zeros):.3g}" if has_others else "zero throughout"
        axes.annotate(where, (0.04, 0.03), xycoords="axes fraction", fontsize=6, bbox=_PAPER)
    axes.set_ylabel(panel.label + (f" {data.unit}" if panel.has_unit else ""))
    if panel.top == "sweet spot":
        _cut_peak(axes, data, panel.column)
    elif panel.top == "centre":
        # the 10 to 90 % range at p = n spans decades above its median
        axes.set_ylim(top=3 * max(_largest(curve, panel.column) for curve in data.curves))
    if is_log:
        # the theory of a bias falls to zero next to p = n, and the null risk where nothing can be predicted
        floor = min(_smallest_above_zero(curve, panel.column) for curve in data.curves)
        axes.set_ylim(bottom=max(axes.get_ylim()[0], floor / _BELOW))
        plain_ticks(axes.yaxis)


def _largest(curve: Curve, quantity: str) -> float:
    highest = [curve.centre(quantity), curve.baseline.get(quantity, np.zeros(1))]
    finite = np.concatenate([values[np.isfinite(values)] for values in highest])
    return float(finite.max())


def _smallest_above_zero(curve: Curve, quantity: str) -> float:
    values = curve.centre(quantity)
    if curve.num_draws:
        values = np.concatenate([values, curve.low[quantity][~curve.has_mean]])
    positive = values[np.isfinite(values) & (values > 0)]
    return float(positive.min()) if positive.size else np.inf


def _zeros(data: FigureData, quantity: str) -> tuple[list[float], bool]:
    """Sizes gamma at which a quantity is zero, and whether it is above zero anywhere."""
    points = [
        (float(x), float(y))
        for curve in data.curves
        for x, y in zip(curve.x["gamma"], curve.centre(quantity), strict=True)
    ]
    return [x for x, y in points if y == 0], any(y > 0 for _, y in points)


def _cut_peak(axes: Axes, data: FigureData, quantity: str) -> None:
    """Cut off the peak, with a note: on its scale a sweet spot would be a flat line."""
    finite = [values[np.isfinite(values)] for values in (curve.centre(quantity) for curve in data.curves)]
    lowest = min(float(values.min()) for values in finite)
    start = max(float(values[0]) for values in finite)
    top = max(10 * lowest, 3 * start)
    if axes.get_ylim()[1] > top:
        axes.set_ylim(top=top)
        low, high = np.log(axes.get_xlim())
        is_right = low + high < 0
        axes.annotate(
            "peak leaves the axis",
            (1.0, 0.98),
            (-4 if is_right else 4, 0),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            va="top",
            ha="right" if is_right else "left",
            fontsize=6,
            bbox=_PAPER,
        )


def gamma_axis(axes: Axes, curves: Sequence[Curve]) -> None:
    """Logarithmic, with plain numbers such as 0.5 and 2 instead of powers of ten."""
    low = min(float(curve.x["gamma"].min()) for curve in curves)
    high = max(float(curve.x["gamma"].max()) for curve in curves)
    axes.set_xscale("log")
    axes.set_xlim(low / 1.15, high * 1.15)
    plain_ticks(axes.xaxis)
    axes.set_xlabel("model size γ = p / n")


def collect(columns: Columns, curve: Curve, quantity: str, x: dict[str, Float64[ndarray, " k"]]) -> None:
    """Append the plotted numbers of one curve, one row per point."""
    missing = np.full(curve.has_mean.size, np.nan)
    block = {
        **x,
        "mean": curve.mean.get(quantity, missing),
        "standard_error": curve.standard_error.get(quantity, missing),
        "median": curve.median.get(quantity, missing),
        "low": curve.low.get(quantity, missing),
        "high": curve.high.get(quantity, missing),
        "theory": curve.theory.get(quantity, missing),
        "exact": plotted_theory(curve, quantity),
        "independent_rows": curve.theory.get("independent_rows", missing),
        "baseline": curve.baseline.get(quantity, missing),
        "has_mean": curve.has_mean.astype(np.float64),
    }
    size = curve.has_mean.size
    columns.setdefault("curve", []).extend([curve.label] * size)
    columns.setdefault("quantity", []).extend([quantity] * size)
    for name, values in block.items():
        columns.setdefault(name, []).extend(float(value) for value in values)
