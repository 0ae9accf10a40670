"""Ticks of logarithmic axes, and axes that a reader asks for."""

from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from lab.core.runs.axes import plain_ticks, set_axes
from lab.core.runs.recorded_study import AxesRequest


@settings(max_examples=10)
@given(st.floats(-6, 6), st.floats(0.005, 9))
@example(-0.0757, 0.025)
@example(-2.1, 2.6)
def test_a_logarithmic_axis_has_at_least_four_ticks(start: float, decades: float) -> None:
    axes = Figure().subplots()
    axes.set_yscale("log")
    low, high = 10**start, 10 ** (start + decades)
    axes.set_ylim(low, high)
    plain_ticks(axes.yaxis)
    shown = [tick for tick in axes.yaxis.get_majorticklocs() if low <= tick <= high]
    assert 4 <= len(shown) <= 12
    labels = [label.get_text() for label in axes.yaxis.get_ticklabels()]
    assert len(set(labels)) == len(labels)


@pytest.mark.parametrize(("low", "high"), [(0.007, 14.0), (0.007, 140.0), (0.007, 14e3), (22.0, 440.0)])
@pytest.mark.parametrize("inches", [2.0, 3.0, 6.0])
def test_labels_below_a_logarithmic_axis_stand_apart(inches: float, low: float, high: float) -> None:
    figure = Figure(figsize=(inches, 2))
    FigureCanvasAgg(figure).draw()
    axes = figure.subplots()
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    plain_ticks(axes.xaxis)
    figure.canvas.draw()
    boxes = [label.get_window_extent() for label in axes.xaxis.get_ticklabels() if label.get_text()]
    assert len(boxes) >= 3
    assert all(left.x1 < right.x0 for left, right in pairwise(boxes))


def test_limits_and_scales_change_in_every_panel() -> None:
    figure = Figure()
    for axes in figure.subplots(1, 2):
        axes.set_xscale("log")
        axes.plot([1, 10], [0.1, 5])
    set_axes(figure, AxesRequest(xlim=(0.5, 2), ylim=(0, 1), yscale="linear", title="Two"))
    for axes in figure.axes:
        assert (axes.get_xlim(), axes.get_ylim(), axes.get_yscale()) == ((0.5, 2), (0, 1), "linear")
        assert len([tick for tick in axes.xaxis.get_majorticklocs() if 0.5 <= tick <= 2]) >= 4
    assert figure.get_suptitle() == "Two"
