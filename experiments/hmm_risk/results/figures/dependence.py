"""Excess risk of dependent rows, and its ratio to the theories of dependent and of independent rows."""

from matplotlib.figure import Figure

from lab.core.runs.figures import MARKERS, LineStyle, new_figure
from lab.experiments.hmm_risk.results.figure_spec import Columns, FigureData, FigureSpec
from lab.experiments.hmm_risk.results.panels import EXCESS_RISK, colour, draw_curves, finish, gamma_axis


def draw(data: FigureData) -> tuple[Figure, Columns]:
    """Excess risk of dependent rows, and its distance from the theory of dependent and of independent rows."""
    figure, (left, right) = new_figure(num_panels=2)
    columns = draw_curves(left, data, EXCESS_RISK)
    finish(left, data, EXCESS_RISK)
    for index, curve in enumerate(data.curves):
        known = 1 + curve.gap("excess_risk", "excess_risk")
        ignored = 1 + curve.gap("excess_risk", "independent_rows")
        style: LineStyle = {"color": colour(index), "marker": MARKERS[index % len(MARKERS)], "markersize": 3}
        right.plot(curve.x["gamma"], known, "-", **style)
        right.plot(curve.x["gamma"], ignored, "--", mfc="white", **style)
    right.axhline(1.0, color="0.6", linewidth=0.8, linestyle=":", zorder=0)
    right.plot([], [], "-o", color="0.35", markersize=3, label="theory of dependent rows")
    right.plot([], [], "--o", color="0.35", markersize=3, mfc="white", label="theory of independent rows")
    # between the two groups of curves
    right.legend(loc="center", bbox_to_anchor=(0.5, 0.38))
    right.set_ylabel("measured / theory")
    gamma_axis(right, data.curves)
    return figure, columns


FIGURE = FigureSpec(columns=("excess_risk", "theory_independent_rows"), draw=draw)
