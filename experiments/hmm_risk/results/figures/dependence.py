"""Excess risk and bias of dependent rows, and the ratio to the theories of dependent and of independent rows."""

# Letters: k points of a curve.

import numpy as np
from jaxtyping import Float64
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy import ndarray

from lab.core.runs.figures import new_figure
from lab.experiments.hmm_risk.results.caption import caption
from lab.experiments.hmm_risk.results.figure_spec import Columns, FigureData, FigureSpec
from lab.experiments.hmm_risk.results.legend import add_legend
from lab.experiments.hmm_risk.results.panels import EXCESS_RISK, Panel, draw_curves, finish, gamma_axis
from lab.experiments.hmm_risk.results.summary import Curve

_BIAS = Panel("bias", "bias", top="centre")
# curves are drawn beside each other within this factor, since their bars would lie on each other
_DODGE = 1.05


def draw(data: FigureData) -> tuple[Figure, Columns]:
    """Excess risk and bias, and the distance of the excess risk from the theory of dependent and independent rows."""
    figure, (left, middle, right) = new_figure(num_panels=3)
    columns = draw_curves(left, data, EXCESS_RISK)
    finish(left, data, EXCESS_RISK)
    draw_curves(middle, data, _BIAS, columns=columns)
    finish(middle, data, _BIAS)
    _draw_ratios(right, data)
    add_legend([left, middle, right])
    return figure, columns


def _draw_ratios(axes: Axes, data: FigureData) -> None:
    count = len(data.curves)
    for number, (curve, style) in enumerate(zip(data.curves, data.styles(), strict=True)):
        x = curve.x["gamma"] * _DODGE ** ((number - (count - 1) / 2) / max(count - 1, 1))
        for line, fill in (("excess_risk", style.color), ("independent_rows", "white")):
            ratio, error = _ratio(curve, line)
            shown = np.isfinite(ratio)
            axes.errorbar(
                x[shown],
                ratio[shown],
                error[shown],
                fmt=style.marker,
                color=style.color,
                mfc=fill,
                markersize=3,
                elinewidth=0.8,
            )
    axes.axhline(1.0, color="0.6", linewidth=0.8, linestyle=":", zorder=0)
    axes.plot([], [], "o", color="0.35", markersize=3, label="ratio to the theory of dependent rows")
    axes.plot([], [], "o", color="0.35", markersize=3, mfc="white", label="ratio to that of independent rows")
    axes.set_ylabel("measured / theory")
    gamma_axis(axes, data.curves)


def _ratio(curve: Curve, line: str) -> tuple[Float64[ndarray, " k"], Float64[ndarray, " k"]]:
    """Measured over theory, and its standard error; NaN where there is no mean or no theory."""
    ratio = 1 + curve.gap("excess_risk", line)
    with np.errstate(divide="ignore", invalid="ignore"):
        return ratio, curve.standard_error["excess_risk"] / curve.theory[line]


FIGURE = FigureSpec(
    columns=("excess_risk", "theory_independent_rows"),
    draw=draw,
    caption=lambda data: caption(
        "Excess risk and bias with several rows from one sequence, and the ratio of the excess risk to theory, against "
        "γ = p/n.",
        data,
        quantities=("excess_risk", "bias"),
        more=(
            "Right: filled markers compare with the theory of dependent rows, hollow ones with that of independent "
            "rows; curves are moved apart sideways.",
        ),
    ),
)
