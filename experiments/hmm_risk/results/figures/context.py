"""Total risk against the length of the context."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

from lab.core.runs.figures import new_figure
from lab.experiments.hmm_risk.results.caption import caption
from lab.experiments.hmm_risk.results.figure_spec import Columns, FigureData, FigureSpec
from lab.experiments.hmm_risk.results.legend import add_legend
from lab.experiments.hmm_risk.results.panels import TOTAL_RISK, collect, draw_points
from lab.experiments.hmm_risk.results.reference_lines import NULL, THEORY
from lab.experiments.hmm_risk.results.short_labels import short_labels

_FLOOR = "best linear head"


def draw(data: FigureData) -> tuple[Figure, Columns]:
    """Total risk against the length of the context, with the minimum risk of each representation and the null risk."""
    figure, (axes,) = new_figure(num_panels=1)
    columns: Columns = {}
    names = short_labels([curve.label for curve in data.curves])
    for curve, style, name in zip(data.curves, data.styles(), names, strict=True):
        x = curve.x["context_length"]
        draw_points(axes, curve, x, "prediction_risk", style, label=name)
        axes.plot(x, curve.theory["prediction_risk"], color=style.color)
        axes.plot(x, curve.floor, color=style.color, linestyle="--", linewidth=0.8)
        collect(columns, curve, "prediction_risk", {"context_length": x, "noise_floor": curve.floor})
    null = np.concatenate([curve.baseline["prediction_risk"] for curve in data.curves])
    axes.plot([], [], color="0.35", label=THEORY)
    axes.plot([], [], color="0.35", linestyle="--", linewidth=0.8, label=_FLOOR)
    for value in sorted(set(np.round(null, 9))):
        axes.axhline(value, color="0.45", linewidth=0.8, linestyle="-.", zorder=1)
    axes.plot([], [], color="0.45", linewidth=0.8, linestyle="-.", label=NULL)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.set_xlabel("context length (tokens)")
    axes.set_ylabel(f"{TOTAL_RISK.label} {data.unit}")
    add_legend([axes])
    return figure, columns


FIGURE = FigureSpec(
    columns=("prediction_risk", "theory_prediction_risk"),
    draw=draw,
    caption=lambda data: caption(
        "Total prediction risk against the length of the context.",
        data,
        quantities=("prediction_risk",),
        more=("Dashed lines: the best linear head on the representation, the least risk that training can reach.",),
    ),
    x="context_length",
    has_lines=False,
)
