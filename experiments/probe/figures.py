"""The figures of a probe."""

import math
from collections.abc import Callable, Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from lab.core.runs.axes import plain_ticks
from lab.core.runs.captions import Caption
from lab.core.runs.curve_styles import CurveStyle, curve_styles
from lab.core.runs.figures import Drawn, legend_below, new_figure
from lab.experiments.probe.report import layers_of
from lab.experiments.probe.results import LINES, Point, Results

_MOST_PANELS = 4
_DASHES = {"gaussian": ":", "elliptical": "-", "clustered": "--"}


def risk_by_width(results: Results) -> Drawn | None:
    """Risk against width, without ridge and with the best one, a panel a curve."""
    return _panels(results, "width", _by_width, "number of features p", log_x=True)


def risk_by_ridge(results: Results) -> Drawn | None:
    """Risk against ridge at full width, a panel a curve."""
    return _panels(results, "ridge", _by_ridge, "ridge λ", log_x=True)


def _by_width(results: Results, curve: str) -> dict[str, list[Point]]:
    size = results.sizes()[-1]
    points = results.of_curve(curve, size)
    found = {f"n = {size}, no ridge": [point for point in points if point.ridge == 0]}
    widths = dict.fromkeys(point.width for point in points)
    best = [min((p for p in points if p.width == width), key=lambda point: point.mean) for width in widths]
    return {**found, f"n = {size}, best ridge": best}


def _by_ridge(results: Results, curve: str) -> dict[str, list[Point]]:
    found = {}
    for size in results.sizes():
        points = results.of_curve(curve, size)
        width = max(point.width for point in points)
        found[f"n = {size}, p = {width}"] = [point for point in points if point.width == width and point.ridge > 0]
    return found


def _panels(
    results: Results,
    x: str,
    series: Callable[[Results, str], dict[str, list[Point]]],
    label: str,
    *,
    log_x: bool,
) -> Drawn | None:
    shown = [curve["curve"] for curve in results.curves][:_MOST_PANELS]
    groups = {curve: {name: points for name, points in series(results, curve).items() if points} for curve in shown}
    if not any(groups.values()):
        return None
    figure, panels = new_figure(num_panels=len(shown))
    for axes, curve in zip(panels, shown, strict=True):
        styles = curve_styles(list(groups[curve]))
        for (name, points), style in zip(groups[curve].items(), styles, strict=True):
            _draw(axes, points, x, name, style)
        axes.axhline(1, color="0.5", linewidth=0.7, linestyle="-.")
        axes.set_title(curve)
        axes.set_xlabel(label)
        axes.set_yscale("log")
        if log_x:
            axes.set_xscale("log")
            plain_ticks(axes.xaxis)
        plain_ticks(axes.yaxis)
    panels[0].set_ylabel("risk over that of predicting zero")
    points = [point for curve in shown for points in groups[curve].values() for point in points]
    for line, dashes in _DASHES.items():
        if any(line in point.lines for point in points):
            panels[0].plot([], [], color="0.4", linewidth=0.8, linestyle=dashes, label=line)
    panels[0].legend()
    sentences = [
        "Dots: mean risk over draws of the training rows, with intervals of 95 %; at p = n without ridge medians."
    ]
    sentences.append("Solid lines: elliptical theory, dotted: Gaussian, dashed: clustered. Grey: predicting zero.")
    return Drawn(figure, _columns(points), Caption(sentences))


def _draw(axes: Axes, points: Sequence[Point], x: str, name: str, style: CurveStyle) -> None:
    places = [getattr(point, x) for point in points]
    halves = [point.high - point.mean if math.isfinite(point.high) else 0.0 for point in points]
    axes.errorbar(
        places,
        [point.mean for point in points],
        halves,
        fmt=style.marker,
        color=style.color,
        markersize=3,
        label=name,
        linewidth=0.8,
    )
    for line, dashes in _DASHES.items():
        known = [(place, point.lines[line]) for place, point in zip(places, points, strict=True) if line in point.lines]
        finite = [(place, value if math.isfinite(value) else math.nan) for place, value in known]
        if finite:
            axes.plot(*zip(*finite, strict=True), linestyle=dashes, color=style.color, linewidth=0.8)


def layers(results: Results) -> Drawn | None:
    """The lowest risk of a head behind each layer, for every model."""
    found = layers_of(results)
    if not found:
        return None
    figure, (axes,) = new_figure(num_panels=1)
    for (name, points), style in zip(found.items(), curve_styles(list(found)), strict=True):
        order = sorted(points)
        means, halves = [points[n].mean for n in order], [points[n].high - points[n].mean for n in order]
        halves = [half if math.isfinite(half) else 0.0 for half in halves]
        axes.errorbar(order, means, halves, marker=style.marker, color=style.color, markersize=3.5, label=name)
    axes.set_xlabel("layer")
    axes.set_ylabel("lowest risk of a head")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if len(found) > 1:
        legend_below(figure, axes, num_columns=1)
    size = results.sizes()[-1]
    shown = [point for by_layer in found.values() for point in by_layer.values()]
    caption = Caption(
        [f"Lowest risk over widths and strengths, n = {size}, over that of predicting zero; bars: intervals of 95 %."]
    )
    return Drawn(figure, _columns(shown), caption)


def causes(results: Results) -> Drawn | None:
    """How far the minimum-norm head lies from the Gaussian line, by variant."""
    size = results.sizes()[-1]
    curves = [curve["curve"] for curve in results.curves]
    plain = {name: [p for p in results.of_curve(name, size) if p.ridge == 0] for name in curves}
    plain = {name: points for name, points in plain.items() if points}
    if not plain:
        return None
    figure, (axes,) = new_figure(num_panels=1)
    for (name, points), style in zip(plain.items(), curve_styles(list(plain)), strict=True):
        # targets that are linear in the features leave a line at zero
        kept = [point for point in points if 0 < point.lines["gaussian"] < math.inf]
        ratios = [point.mean / point.lines["gaussian"] for point in kept]
        halves = [
            (point.high - point.mean) / point.lines["gaussian"] if math.isfinite(point.high) else 0.0 for point in kept
        ]
        places = [point.width for point in kept]
        axes.errorbar(places, ratios, halves, marker=style.marker, color=style.color, markersize=3, label=name)
    axes.axhline(1, color="0.5", linewidth=0.7)
    axes.set_xscale("log")
    axes.set_yscale("log")
    plain_ticks(axes.xaxis)
    plain_ticks(axes.yaxis)
    axes.set_xlabel(f"number of features p (n = {size})")
    axes.set_ylabel("measured risk over Gaussian line")
    if len(plain) > 1:
        axes.legend()
    caption = Caption(
        [
            "Minimum-norm heads: measured risk over the Gaussian line of the same rows; bars: intervals of 95 %.",
            "Each variant takes a cause away: labels of the linear model, noise in the features, copies of a token, or "
            "rows drawn with the same moments.",
        ]
    )
    return Drawn(figure, _columns([point for points in plain.values() for point in points]), caption)


def _columns(points: Sequence[Point]) -> dict[str, list[object]]:
    names = ("curve", "num_train", "width", "ridge", "mean", "low", "high", "summary")
    columns: dict[str, list[object]] = {name: [getattr(point, name) for point in points] for name in names}
    return {**columns, **{line: [point.lines.get(line) for point in points] for line in ("floor", *LINES)}}


FIGURES: dict[str, Callable[[Results], Drawn | None]] = {
    "risk_by_width": risk_by_width,
    "risk_by_ridge": risk_by_ridge,
    "layers": layers,
    "causes": causes,
}


def drawn(name: str, results: Results) -> Drawn | None:
    """Draw a figure by its name; None if the results hold nothing that it shows."""
    return FIGURES[name](results)
