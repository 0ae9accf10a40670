"""Figures of `lab bench long-context`: latency and memory against length, the paper's curves beside them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from lab.core.runs.captions import Caption
from lab.core.runs.curve_styles import MARKERS, PALETTE
from lab.core.runs.figures import Drawn, house_style, new_figure, save_figure
from lab.experiments.bench.long_context import paper
from lab.experiments.bench.long_context.models import Kind
from lab.experiments.bench.long_context.setting import Setting, in_words
from lab.experiments.bench.long_context.steps import Sizes, streaming_name
from lab.experiments.bench.published import published_curve

_PUBLISHED = {paper.NAME: "HoVLE", Kind.hybrid: "mmMamba-hybrid", Kind.linear: "mmMamba-linear"}
_CURVES = (Kind.linear, Kind.hybrid, Kind.teacher, paper.NAME)
_LABELS = {Kind.linear: "linear", Kind.hybrid: "hybrid", Kind.teacher: "teacher, well made", paper.NAME: paper.NAME}
_GIB = 2**30

Points = Mapping[int, float]


class OneLength(Protocol):
    """What was measured at one length."""

    num_tokens: int
    num_layers: int
    is_whole: bool
    sizes: dict[Kind, Sizes]
    medians_s: dict[str, float]
    resident: dict[Kind, int]


class _Curve(NamedTuple):
    """Points of one of `_CURVES`.

    Attributes:
        name: decides colour and marker.
        what: in the table of plotted numbers.
        points: by tokens.
        label: in the legend; None leaves it out.
        line: as matplotlib writes it; empty for marks alone.
        has_marks: whether its points are marked.
        is_hollow: whether only the edges of the marks are drawn.
    """

    name: str
    what: str
    points: Points
    label: str | None = None
    line: str = "-"
    has_marks: bool = True
    is_hollow: bool = False


def draw(setting: Setting, measured: Sequence[OneLength], directory: Path, stem: str) -> None:
    """STEM_latency and STEM_memory, two panels each: measured here, and published."""
    whole = [found for found in measured if found.is_whole]
    cut = [found for found in measured if not found.is_whole]
    model = f"{setting.teacher}, {setting.num_layers} layers, {setting.precision}, one row"
    beside = "Right: as published (arXiv 2502.13145, figure 1), on an RTX 4090; read off the figure within 3 %."
    fewer = ", ".join(f"{found.num_layers} at {in_words(found.num_tokens)} tokens" for found in cut)
    hollow = [f"Hollow: the most layers that fit into memory with the teacher, {fewer}."] if cut else []
    latency = Caption(
        [
            f"Time of the next token against the tokens in the cache: {model}, on this machine's processor.",
            "Dotted: reading the weights and states of the step once, in the same rounds.",
            *hollow,
            beside,
        ]
    )
    memory = Caption(
        [
            f"Memory against the tokens in the cache: {model}.",
            "Lines: bytes of all weights and the state; marks: what a process with one model holds above its code.",
            f"{paper.NAME.capitalize()}: counted, with the released code's tables of angles in each layer and the "
            "concatenation of one; it was not held here.",
            beside,
        ]
    )
    times = [
        *(_Curve(name, _LABELS[name], _times(whole, name), _LABELS[name]) for name in _CURVES),
        *(
            _Curve(kind, f"{kind}, bound", _times(whole, streaming_name(kind)), None, ":", has_marks=False)
            for kind in Kind
        ),
        *(
            _Curve(name, f"{_LABELS[name]}, fewer layers", _times(cut, name), None, "", is_hollow=True)
            for name in _CURVES
        ),
    ]
    held = [
        *(_Curve(name, _LABELS[name], _counted(whole, name), _LABELS[name], has_marks=False) for name in _CURVES),
        *(_Curve(kind, f"{kind}, resident", _resident(whole, kind), None, "") for kind in Kind),
    ]
    with house_style():
        _figure(directory, f"{stem}_latency", "time of the next token (ms)", times, "latency_ms", latency)
        _figure(directory, f"{stem}_memory", "memory (GiB)", held, "memory_gb", memory)


def _times(found: Sequence[OneLength], name: str) -> Points:
    return {each.num_tokens: 1e3 * each.medians_s[name] for each in found if name in each.medians_s}


def _resident(found: Sequence[OneLength], kind: Kind) -> Points:
    return {each.num_tokens: each.resident[kind] / _GIB for each in found if kind in each.resident}


def _counted(found: Sequence[OneLength], name: str) -> Points:
    points = {}
    for each in found:
        kind = Kind.teacher if name == paper.NAME else Kind(name)
        if kind in each.sizes:
            size = each.sizes[kind].paper if name == paper.NAME else each.sizes[kind].held
            if size is not None:
                points[each.num_tokens] = size / _GIB
    return points


def _figure(directory: Path, name: str, ylabel: str, curves: Sequence[_Curve], quantity: str, caption: Caption) -> None:
    theirs = [_Curve(key, model, published_curve(model, quantity), model) for key, model in _PUBLISHED.items()]
    figure, axes = new_figure(num_panels=2)
    titles = ("Here", "Published, RTX 4090")
    columns: dict[str, list[Any]] = {key: [] for key in ("panel", "curve", "num_tokens", "value")}
    for axis, title, panel in zip(axes, titles, (curves, theirs), strict=True):
        for curve in panel:
            _plot(axis, curve)
            for length, value in curve.points.items():
                for key, entry in zip(columns, (title, curve.what, length, value), strict=True):
                    columns[key].append(entry)
        _finish(axis, title, ylabel)
    save_figure(Drawn(figure, columns, caption), directory, name)


def _plot(axis: Axes, curve: _Curve) -> None:
    index = _CURVES.index(curve.name)
    axis.plot(
        list(curve.points),
        list(curve.points.values()),
        color=PALETTE[index],
        linestyle=curve.line,
        label=curve.label,
        marker=MARKERS[index] if curve.has_marks else "",
        markersize=3,
        fillstyle="none" if curve.is_hollow else "full",
    )


def _finish(axis: Axes, title: str, ylabel: str) -> None:
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.xaxis.set_major_formatter(FuncFormatter(lambda length, _: in_words(int(length))))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.yaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axis.set_xlabel("tokens in the cache")
    axis.set_ylabel(ylabel)
    axis.set_title(title)
    axis.legend(loc="upper left")
