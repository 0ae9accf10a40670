"""Axes of figures: plain numbers as ticks of a logarithmic axis, and limits and scales that a reader asks for."""

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatterSciNotation, LogLocator, MaxNLocator, NullFormatter, NullLocator

from lab.core.runs.recorded_study import AxesRequest

_FEWEST_TICKS, _MOST_TICKS = 4, 10
# multiples of a power of ten that may be ticks, the coarsest first
_MULTIPLES = ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7))


def plain_ticks(axis: Axis) -> None:
    """Plain numbers such as 0.2 as ticks of a logarithmic axis, at least four; over many decades powers of ten."""
    low, high = sorted(axis.get_view_interval())
    axis.set_minor_formatter(NullFormatter())
    choices = [
        [m * 10.0**e for e in range(-12, 13) for m in multiples if low <= m * 10.0**e <= high]
        for multiples in _MULTIPLES
    ]
    if len(choices[1]) > _MOST_TICKS:
        axis.set_major_locator(LogLocator())
        axis.set_major_formatter(LogFormatterSciNotation())
        return
    # the finest that is not too fine
    ticks = next((ticks for ticks in reversed(choices[:-1]) if len(ticks) <= _MOST_TICKS), choices[0])
    if len(ticks) < _FEWEST_TICKS:
        ticks = choices[-1]
    if len(ticks) < _FEWEST_TICKS:
        # within less than a factor of two, as on a linear axis
        locator = MaxNLocator(nbins=6, steps=[1, 2, 2.5, 5, 10], min_n_ticks=_FEWEST_TICKS)
        ticks = [tick for tick in locator.tick_values(low, high) if low <= tick <= high]
    axis.set_ticks(ticks, [f"{tick:.6g}" for tick in ticks])
    axis.set_minor_locator(NullLocator())


def set_axes(figure: Figure, request: AxesRequest) -> None:
    """Change limits and scales of every panel, and set the title."""
    for axes in figure.axes:
        if axes.get_label() != "<colorbar>":
            _set(axes, request)
    if request.title:
        figure.suptitle(request.title, fontsize="medium")


def _set(axes: Axes, request: AxesRequest) -> None:
    if request.xscale is not None and request.xscale != axes.get_xscale():
        axes.set_xscale(request.xscale)
    if request.yscale is not None and request.yscale != axes.get_yscale():
        axes.set_yscale(request.yscale)
    if request.xlim is not None:
        axes.set_xlim(*request.xlim)
    if request.ylim is not None:
        axes.set_ylim(*request.ylim)
    # ticks were chosen for what the axis showed before
    if axes.get_xscale() == "log" and (request.xlim or request.xscale):
        plain_ticks(axes.xaxis)
    if axes.get_yscale() == "log" and (request.ylim or request.yscale):
        plain_ticks(axes.yaxis)
