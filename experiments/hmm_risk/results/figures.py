"""The study's figures: measured risk with its spread, theory over it, the interpolation threshold marked."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter, StrMethodFormatter
from numpy import ndarray

from lab.core.runs.figures import MARKERS, PALETTE, new_figure
from lab.experiments.hmm_risk.results.summary import Curve

Columns = dict[str, list[Any]]

_WITH_SWEET_SPOT = ("prediction_risk", "fixed_problem_excess")

_MOST_INSIDE = 4
_LONGEST_IN_TWO_COLUMNS = 24

_LABELS = {
    "excess_risk": "excess risk",
    "prediction_risk": "total prediction risk",
    "fixed_problem_excess": "excess over the full head",
    "bias": "bias",
    "variance": "variance",
    "accuracy": "accuracy",
    "log_loss": "log-loss (nats)",
}


@dataclass(frozen=True, slots=True)
class Sheet:
    """What a figure is drawn from.

    Attributes:
        curves: one for each label and ridge strength.
        unit: said after a risk on its axis: per output, or summed over outputs.
    """

    curves: Sequence[Curve]
    unit: str


def excess_risk(sheet: Sheet) -> tuple[Figure, Columns]:
    """Excess risk against gamma: dots and bars are means and standard errors, lines are theory."""
    return _one_panel(sheet, "excess_risk")


def total_risk(sheet: Sheet) -> tuple[Figure, Columns]:
    """Total prediction risk against gamma."""
    return _one_panel(sheet, "prediction_risk")


def fixed_problem_excess(sheet: Sheet) -> tuple[Figure, Columns]:
    """Excess over the best head on the full model's features."""
    return _one_panel(sheet, "fixed_problem_excess")


def bias_variance(sheet: Sheet) -> tuple[Figure, Columns]:
    """Bias and variance, one panel each, on one scale."""
    return _panels(sheet, ("bias", "variance"))


def total_and_excess(sheet: Sheet) -> tuple[Figure, Columns]:
    """The two definitions of risk side by side: the first descent is degenerate under one of them."""
    return _panels(sheet, ("excess_risk", "prediction_risk"))


def downstream(sheet: Sheet) -> tuple[Figure, Columns]:
    """Accuracy and log-loss of a classifying head."""
    return _panels(sheet, ("accuracy", "log_loss"))


def dependence(sheet: Sheet) -> tuple[Figure, Columns]:
    """Excess risk of dependent rows, and how far it is from the theory that knows and from the one that does not."""
    figure, (left, right) = new_figure(num_panels=2)
    columns = _draw(left, sheet, "excess_risk")
    _finish(left, sheet, "excess_risk")
    for index, curve in enumerate(sheet.curves):
        known = 1 + curve.gap("excess_risk", "excess_risk")
        ignored = 1 + curve.gap("excess_risk", "independent_rows")
        style: dict[str, Any] = {"color": _colour(index), "marker": MARKERS[index % len(MARKERS)], "markersize": 3}
        right.plot(curve.x["gamma"], known, "-", **style)
        right.plot(curve.x["gamma"], ignored, "--", mfc="white", **style)
    right.axhline(1.0, color="0.6", linewidth=0.8, linestyle=":", zorder=0)
    right.plot([], [], "-o", color="0.35", markersize=3, label="theory of dependent rows")
    right.plot([], [], "--o", color="0.35", markersize=3, mfc="white", label="theory of independent rows")
    # between the two groups of curves
    right.legend(loc="center", bbox_to_anchor=(0.5, 0.38))
    right.set_ylabel("measured / theory")
    _gamma_axis(right, sheet.curves)
    return figure, columns


def context(sheet: Sheet) -> tuple[Figure, Columns]:
    """Total risk against the length of the context; dashed: the least risk that the representation allows."""
    figure, (axes,) = new_figure(num_panels=1)
    columns: Columns = {}
    for index, curve in enumerate(sheet.curves):
        x = curve.x["context_length"]
        _points(axes, curve, x, "prediction_risk", index)
        axes.plot(x, curve.theory["prediction_risk"], color=_colour(index))
        axes.plot(x, curve.floor, color=_colour(index), linestyle="--", linewidth=0.8)
        _collect(columns, curve, "prediction_risk", {"context_length": x, "noise_floor": curve.floor})
    axes.plot([], [], color="0.35", label="theory")
    axes.plot([], [], color="0.35", linestyle="--", linewidth=0.8, label="least risk of any linear head")
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.set_xlabel("context length (tokens)")
    axes.set_ylabel(f"{_LABELS['prediction_risk']} {sheet.unit}")
    _legend(axes, len(sheet.curves))
    return figure, columns


def snr_map(sheet: Sheet) -> tuple[Figure, Columns]:
    """Excess risk over model size and signal-to-noise ratio, measured and predicted, with the least beyond p = n."""
    figure, panels = new_figure(num_panels=2)
    ordered = sorted(sheet.curves, key=lambda curve: float(curve.x["snr"][0]))
    snr = np.array([float(curve.x["snr"][0]) for curve in ordered])
    gamma = ordered[0].x["gamma"]
    columns: Columns = {"gamma": [], "snr": [], "measured": [], "theory": []}
    blocks = {
        "measured": np.array([curve.centre("excess_risk") / curve.null_excess for curve in ordered]),
        "theory": np.array([curve.theory["excess_risk"] / curve.null_excess for curve in ordered]),
    }
    beyond = gamma > 1
    for axes, (name, block) in zip(panels, blocks.items(), strict=True):
        mesh = axes.pcolormesh(gamma, snr, np.log10(block), cmap="cividis", vmin=-1.5, vmax=1.5, shading="nearest")
        axes.plot(np.full(snr.size, gamma[0]), snr, "v", color="white", markersize=3, clip_on=False)
        least = gamma[beyond][np.argmin(block[:, beyond], axis=1)]
        inside = least < gamma[-1]
        axes.plot(least[inside], snr[inside], "o", color=PALETTE[1], markersize=3)
        axes.axvline(1.0, color="white", linewidth=0.8, linestyle=":")
        _gamma_axis(axes, sheet.curves)
        axes.set_yscale("log")
        axes.set_yticks(snr[:: max(1, snr.size // 6)], [f"{ratio:g}" for ratio in snr[:: max(1, snr.size // 6)]])
        axes.minorticks_off()
        axes.set_title(name)
    panels[0].set_ylabel("signal-to-noise ratio")
    marks = (
        Line2D([], [], linestyle="", marker="v", color="white", markeredgecolor="0.35", label="least of all sizes"),
        Line2D([], [], linestyle="", marker="o", color=PALETTE[1], label="least beyond p = n"),
    )
    figure.legend(handles=marks, loc="outside lower center", ncols=2)
    figure.colorbar(mesh, ax=panels, label="log₁₀ excess risk / null excess risk")
    for row, ratio in enumerate(snr):
        for column, size in enumerate(gamma):
            for key, value in zip(
                columns, (size, ratio, blocks["measured"][row, column], blocks["theory"][row, column]), strict=True
            ):
                columns[key].append(float(value))
    return figure, columns


FIGURES: dict[str, Callable[[Sheet], tuple[Figure, Columns]]] = {
    function.__name__: function
    for function in (
        excess_risk,
        total_risk,
        fixed_problem_excess,
        bias_variance,
        total_and_excess,
        downstream,
        dependence,
        context,
        snr_map,
    )
}


def _one_panel(sheet: Sheet, quantity: str) -> tuple[Figure, Columns]:
    figure, axes = new_figure(num_panels=1)
    columns = _draw(axes[0], sheet, quantity)
    _finish(axes[0], sheet, quantity, cut_peak=quantity in _WITH_SWEET_SPOT)
    return figure, columns


def _panels(sheet: Sheet, quantities: tuple[str, ...]) -> tuple[Figure, Columns]:
    figure, panels = new_figure(num_panels=len(quantities))
    columns: Columns = {}
    for axes, quantity in zip(panels, quantities, strict=True):
        _draw(axes, sheet, quantity, columns=columns)
        _finish(axes, sheet, quantity, with_legend=axes is panels[0], cut_peak=quantity in _WITH_SWEET_SPOT)
    return figure, columns


def _draw(axes: Axes, sheet: Sheet, quantity: str, *, columns: Columns | None = None) -> Columns:
    columns = {} if columns is None else columns
    for index, curve in enumerate(sheet.curves):
        x = curve.x["gamma"]
        _points(axes, curve, x, quantity, index)
        theory = curve.theory.get(quantity, np.full(x.size, np.nan))
        style = ":" if curve.is_reference else "-"
        # the asymptotic line is infinite at the threshold: left and right of it are two lines
        for side in (x < 1, x > 1):
            axes.plot(x[side], theory[side], style, color=_colour(index), zorder=3)
        _collect(columns, curve, quantity, {"gamma": x, "width": curve.x["width"]})
    if any(quantity in curve.theory for curve in sheet.curves):
        is_reference = sheet.curves[0].is_reference
        name = "Gaussian reference" if is_reference else "theory"
        axes.plot([], [], ":" if is_reference else "-", color="0.35", label=name)
    return columns


def _points(axes: Axes, curve: Curve, x: Float64[ndarray, " k"], quantity: str, index: int) -> None:
    """Mean and standard error; within three rows of p = n, where neither exists, median and 10 to 90 % range."""
    colour, marker = _colour(index), MARKERS[index % len(MARKERS)]
    near = ~curve.has_mean
    mean, median = curve.mean[quantity], curve.median[quantity]
    error = curve.standard_error[quantity]
    axes.errorbar(x[~near], mean[~near], error[~near], fmt=marker, color=colour, label=curve.label, markersize=3)
    spread = np.abs(np.array([median - curve.low[quantity], curve.high[quantity] - median]))
    axes.errorbar(x[near], median[near], spread[:, near], fmt=marker, color=colour, mfc="white", markersize=3)


def _finish(axes: Axes, sheet: Sheet, quantity: str, *, with_legend: bool = True, cut_peak: bool = False) -> None:
    axes.axvline(1.0, color="0.6", linewidth=0.8, linestyle=":", zorder=0)
    _gamma_axis(axes, sheet.curves)
    if quantity == "accuracy":
        axes.set_ylabel(_LABELS[quantity])
    else:
        axes.set_yscale("log")
        axes.set_ylabel(_LABELS[quantity] + (f" {sheet.unit}" if quantity != "log_loss" else ""))
    if cut_peak:
        _cut_peak(axes, sheet, quantity)
    elif quantity == "excess_risk":
        # the 10 to 90 % range at p = n spans decades above its median
        axes.set_ylim(top=3 * max(float(np.nanmax(curve.centre(quantity))) for curve in sheet.curves))
    if quantity != "accuracy":
        _plain_risk_axis(axes)
    if with_legend and (len(sheet.curves) > 1 or sheet.curves[0].label != "measured"):
        _legend(axes, len(sheet.curves))


def _legend(axes: Axes, num_curves: int) -> None:
    """Inside where there is room; more than a few curves are named below the panels."""
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


def _cut_peak(axes: Axes, sheet: Sheet, quantity: str) -> None:
    """Leave the peak off the axis, and say so: on its scale a sweet spot would be a flat line."""
    lowest = min(float(np.nanmin(curve.mean[quantity])) for curve in sheet.curves)
    start = max(float(curve.mean[quantity][0]) for curve in sheet.curves)
    top = max(10 * lowest, 3 * start)
    if axes.get_ylim()[1] > top:
        axes.set_ylim(top=top)
        axes.annotate("peak leaves the axis", (1.0, top), (5, 2), textcoords="offset points", fontsize=6)


def _plain_risk_axis(axes: Axes) -> None:
    """Plain numbers where the axis spans few decades, for powers of ten would leave one tick."""
    low, high = axes.get_ylim()
    axes.yaxis.set_minor_formatter(NullFormatter())
    if high < 300 * low:
        ticks = [m * 10.0**e for e in range(-6, 7) for m in (1, 2, 5) if low <= m * 10.0**e <= high]
        axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])


def _gamma_axis(axes: Axes, curves: Sequence[Curve]) -> None:
    """Logarithmic, with plain numbers: 0.5 and 2 say more than powers of ten."""
    low = min(float(curve.x["gamma"].min()) for curve in curves)
    high = max(float(curve.x["gamma"].max()) for curve in curves)
    ticks = [m * 10.0**e for e in range(-4, 5) for m in (1, 2, 5) if low / 1.2 <= m * 10.0**e <= high * 1.2]
    axes.set_xscale("log")
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("model size γ = p / n")


def _collect(columns: Columns, curve: Curve, quantity: str, x: dict[str, Float64[ndarray, " k"]]) -> None:
    """Append the plotted numbers of one curve, one row for each point."""
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


def _colour(index: int) -> str:
    return PALETTE[index % len(PALETTE)]
