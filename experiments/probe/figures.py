"""The figures of a probe."""

import math
from collections.abc import Callable, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lab.core.runs.axes import plain_ticks
from lab.core.runs.captions import Caption
from lab.core.runs.curve_styles import CurveStyle, curve_styles
from lab.core.runs.figures import Drawn, legend_below, new_figure, new_grid
from lab.experiments.probe.layers import layers_of
from lab.experiments.probe.results import LINES, Point, Results, lowest

_DASHES = {"gaussian": ":", "elliptical": "-", "empirical": "--"}
_LABELS = {"gaussian": "Gaussian"}
# panels of a row where each is a curve
_ACROSS = 3
# over the largest risk outside the threshold, where a panel ends
_HEADROOM = 2.5
_MARKS = Caption(
    [
        "Dots: mean risk over draws of the training rows, with intervals of 95 %; at p = n without ridge, or with "
        "next to none, medians, "
        "which may lie above the panel.",
        "Solid lines: elliptical theory, dotted: Gaussian, dashed: empirical. Grey: predicting zero.",
    ]
)


def risk_by_width(results: Results) -> Drawn | None:
    """Risk against width, without ridge and with the best one: a row of panels for each curve, a column for each n."""
    curves, sizes = [curve["curve"] for curve in results.curves], results.sizes()
    figure, grid = new_grid(num_rows=len(curves), num_columns=len(sizes))
    shown = []
    for row, curve in zip(grid, curves, strict=True):
        mine = [
            point
            for axes, size in zip(row, sizes, strict=True)
            for point in _panel(axes, _by_width(results, curve, size), "width")
        ]
        _limit(row, mine)
        row[0].set_ylabel(curve)
        shown += mine
    for axes, size in zip(grid[0], sizes, strict=True):
        axes.set_title(f"n = {size}")
    for axes in grid[-1]:
        axes.set_xlabel("number of features p")
    return _drawn(figure, grid[0][0], shown)


def risk_by_ridge(results: Results) -> Drawn | None:
    """Risk against ridge at full width, a panel for each curve."""
    groups = {curve["curve"]: _by_ridge(results, curve["curve"]) for curve in results.curves}
    if not any(groups.values()):
        return None
    across = min(len(groups), _ACROSS)
    figure, grid = new_grid(num_rows=-(-len(groups) // across), num_columns=across)
    panels = [axes for row in grid for axes in row]
    shown = []
    for axes, (curve, series) in zip(panels, groups.items(), strict=False):
        shown += _panel(axes, series, "ridge")
        axes.set_title(curve)
    for axes in panels[len(groups) :]:
        axes.remove()
    for axes in panels[: len(groups)][-across:]:
        axes.set_xlabel("ridge λ")
        axes.tick_params(labelbottom=True)
    return _drawn(figure, panels[0], shown)


def _by_width(results: Results, curve: str, size: int) -> dict[str, list[Point]]:
    points = results.of_curve(curve, size)
    widths = dict.fromkeys(point.width for point in points)
    found = {"no ridge": [point for point in points if point.ridge == 0]}
    if any(point.ridge > 0 for point in points):
        at = [[point for point in points if point.width == width] for width in widths]
        found["best ridge"] = [lowest(some) for some in at]
    return found


def _by_ridge(results: Results, curve: str) -> dict[str, list[Point]]:
    found = {}
    for size in results.sizes():
        points = results.of_curve(curve, size)
        width = max(point.width for point in points)
        found[f"n = {size}, p = {width}"] = [point for point in points if point.width == width and point.ridge > 0]
    return {name: points for name, points in found.items() if points}


def _panel(axes: Axes, series: dict[str, list[Point]], x: str) -> list[Point]:
    """Draw the series of a panel, and return all of their points."""
    for (name, points), style in zip(series.items(), curve_styles(list(series)), strict=True):
        _draw(axes, points, x, name, style)
    axes.axhline(1, color="0.5", linewidth=0.7, linestyle="-.")
    for scale in (axes.set_xscale, axes.set_yscale):
        scale("log")
    for axis in (axes.xaxis, axes.yaxis):
        plain_ticks(axis)
    return [point for points in series.values() for point in points]


def _limit(row: Sequence[Axes], points: Sequence[Point]) -> None:
    """Keep what lies next to p = n, up to thousands, from flattening all else in a row of panels."""
    away = [point.mean for point in points if point.is_away or (point.ridge > 0 and point.summary == "mean")]
    # a perfect fit has no risk to scale the axis by
    if max(away, default=0.0) > 0:
        row[0].set_ylim(top=min(_HEADROOM * max(away), row[0].get_ylim()[1]))


def _drawn(figure: Figure, axes: Axes, points: Sequence[Point]) -> Drawn:
    """A grid with its legend, which the first panel gives."""
    for line, dashes in _DASHES.items():
        if any(line in point.lines for point in points):
            axes.plot([], [], color="0.4", linewidth=0.8, linestyle=dashes, label=_LABELS.get(line, line))
    figure.supylabel("risk over that of predicting zero", fontsize=8)
    legend_below(figure, axes, num_columns=5)
    return Drawn(figure, _columns(points), _MARKS)


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
    # without ridge lines rise without limit at p = n: they do not lead across it
    branches = [[p for p in points if p.ridge > 0 or p.width < p.num_train]]
    branches.append([p for p in points if p.ridge == 0 and p.width > p.num_train])
    for line, dashes in _DASHES.items():
        for branch in branches:
            known = [(getattr(p, x), p.lines[line]) for p in branch if math.isfinite(p.lines.get(line, math.nan))]
            if known:
                axes.plot(*zip(*known, strict=True), linestyle=dashes, color=style.color, linewidth=0.8)


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
        kept = [point for point in points if 0 < point.lines.get("gaussian", math.nan) < math.inf]
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
