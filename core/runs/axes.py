"""Axes of figures: plain numbers as ticks of a logarithmic axis, and limits and scales that a reader asks for."""

import math
from collections.abc import Sequence
from itertools import pairwise

from matplotlib.axes import Axes
from matplotlib.axis import Axis, XAxis
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatterSciNotation, LogLocator, MaxNLocator, NullFormatter, NullLocator

from lab.core.errors import ConfigError
from lab.core.runs.recorded_study import AxesRequest

_FEWEST_TICKS, _MOST_TICKS = 4, 10
# multiples of a power of ten that may be ticks, the coarsest first
_MULTIPLES = ((1,), (1, 3), (1, 2, 5))
# where these are too few, the finest first
_FINE_MULTIPLES = ((1, 1.5, 2, 3, 5, 7), (1, 2, 3, 5))
# of a digit, over its height
_DIGIT_WIDTH = 0.64
_POINTS_AN_INCH = 72


def plain_ticks(axis: Axis) -> None:
    """Plain numbers such as 0.2 as ticks of a logarithmic axis, at least four; over many decades powers of ten.

    Below a narrow panel fewer, so that they stand apart.
    """
    low, high = sorted(axis.get_view_interval())
    axis.set_minor_formatter(NullFormatter())
    choices, fine_choices = (
        [
            [m * 10.0**e for e in range(-12, 13) for m in multiples if low <= m * 10.0**e <= high]
            for multiples in several
        ]
        for several in (_MULTIPLES, _FINE_MULTIPLES)
    )
    if len(choices[1]) > _MOST_TICKS:
        axis.set_major_locator(LogLocator())
        axis.set_major_formatter(LogFormatterSciNotation())
        return
    # the finest that is not too fine
    fitting = (ticks for ticks in reversed(choices) if len(ticks) <= _MOST_TICKS and _stand_apart(axis, ticks))
    ticks = next(fitting, choices[0])
    if len(ticks) < _FEWEST_TICKS:
        finer = [choice for choice in fine_choices if len(choice) >= _FEWEST_TICKS]
        if not finer:
            # within less than a factor of two, as on a linear axis
            locator = MaxNLocator(nbins=6, steps=[1, 2, 2.5, 5, 10], min_n_ticks=_FEWEST_TICKS)
            finer = [[tick for tick in locator.tick_values(low, high) if low <= tick <= high]]
        few = ticks if len(ticks) > 1 else finer[-1]
        ticks = next((choice for choice in finer if _stand_apart(axis, choice)), few)
    axis.set_ticks(ticks, [_label(tick) for tick in ticks])
    axis.set_minor_locator(NullLocator())


def _label(tick: float) -> str:
    return f"{tick:.6g}"


def _stand_apart(axis: Axis, ticks: Sequence[float]) -> bool:
    """Whether the labels of a horizontal logarithmic axis leave half a digit between them."""
    if not isinstance(axis, XAxis):
        return True
    low, high = axis.get_view_interval()
    size = _DIGIT_WIDTH * float(axis.label.get_fontsize()) / _POINTS_AN_INCH
    inches = axis.axes.get_window_extent().width / axis.axes.figure.dpi
    return all(
        abs(inches * math.log(right / left) / math.log(high / low))
        >= size * (0.5 + (len(_label(left)) + len(_label(right))) / 2)
        for left, right in pairwise(ticks)
    )


def set_axes(figure: Figure, request: AxesRequest) -> None:
    """Change limits and scales of every panel, and set the title.

    Raises:
        ConfigError: for limits of a logarithmic axis that are not above zero.
    """
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
    for name, limits, scale, set_limits in (
        ("x", request.xlim, axes.get_xscale(), axes.set_xlim),
        ("y", request.ylim, axes.get_yscale(), axes.set_ylim),
    ):
        if limits is None:
            continue
        if scale == "log" and limits[0] <= 0:
            words = f"{limits[0]:g},{limits[1]:g}"
            raise ConfigError(
                f"--{name}lim {words}: the {name} axis is logarithmic; give numbers above 0, or --{name}scale linear"
            )
        set_limits(*limits)
    # ticks were chosen for what the axis showed before
    if axes.get_xscale() == "log" and (request.xlim or request.xscale):
        plain_ticks(axes.xaxis)
    if axes.get_yscale() == "log" and (request.ylim or request.yscale):
        plain_ticks(axes.yaxis)
