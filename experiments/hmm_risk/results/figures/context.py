"""Total risk against the length of the context."""

from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

from lab.core.runs.figures import new_figure
from lab.experiments.hmm_risk.results.figure_spec import Columns, FigureData, FigureSpec
from lab.experiments.hmm_risk.results.panels import TOTAL_RISK, add_legend, collect, colour, draw_points


def draw(data: FigureData) -> tuple[Figure, Columns]:
    """Total risk against the length of the context; dashed: the minimum risk with the representation."""
    figure, (axes,) = new_figure(num_panels=1)
    columns: Columns = {}
    for index, curve in enumerate(data.curves):
        x = curve.x["context_length"]
        draw_points(axes, curve, x, "prediction_risk", index)
        axes.plot(x, curve.theory["prediction_risk"], color=colour(index))
        axes.plot(x, curve.floor, color=colour(index), linestyle="--", linewidth=0.8)
        collect(columns, curve, "prediction_risk", {"context_length": x, "noise_floor": curve.floor})
    axes.plot([], [], color="0.35", label="theory")
    axes.plot([], [], color="0.35", linestyle="--", linewidth=0.8, label="minimum risk of any linear head")
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.set_xlabel("context length (tokens)")
    axes.set_ylabel(f"{TOTAL_RISK.label} {data.unit}")
    add_legend(axes, len(data.curves))
    return figure, columns


FIGURE = FigureSpec(columns=("prediction_risk", "theory_prediction_risk"), draw=draw, x="context_length")
