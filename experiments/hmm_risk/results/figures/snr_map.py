"""Excess risk over model size and signal-to-noise ratio."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lab.core.runs.captions import Caption
from lab.core.runs.curve_styles import PALETTE
from lab.core.runs.figures import new_figure
from lab.experiments.hmm_risk.results.figure_spec import Columns, FigureData, FigureSpec
from lab.experiments.hmm_risk.results.panels import gamma_axis


def draw(data: FigureData) -> tuple[Figure, Columns]:
    """Excess risk over model size and signal-to-noise ratio, measured and predicted, with the minimum above p = n."""
    figure, panels = new_figure(num_panels=2)
    ordered = sorted(data.curves, key=lambda curve: float(curve.x["snr"][0]))
    snr = np.array([float(curve.x["snr"][0]) for curve in ordered])
    gamma = ordered[0].x["gamma"]
    columns: Columns = {"gamma": [], "snr": [], "measured": [], "theory": []}
    blocks = {
        "measured": np.array([curve.centre("excess_risk") / curve.null_excess for curve in ordered]),
        "theory": np.array([curve.theory["excess_risk"] / curve.null_excess for curve in ordered]),
    }
    beyond = gamma > 1
    for axes, (name, block) in zip(panels, blocks.items(), strict=True):
        mesh = axes.pcolormesh(gamma, snr, np.log10(block), cmap="cividis", vmin=-1.5, vmax=1.5, shading="nearest")
        axes.plot(np.full(snr.size, gamma[0]), snr, "v", color="white", markersize=3, clip_on=False)
        least = gamma[beyond][np.argmin(block[:, beyond], axis=1)]
        inside = least < gamma[-1]
        axes.plot(least[inside], snr[inside], "o", color=PALETTE[1], markersize=3)
        axes.axvline(1.0, color="white", linewidth=0.8, linestyle=":")
        gamma_axis(axes, data.curves)
        axes.set_yscale("log")
        axes.set_yticks(snr[:: max(1, snr.size // 6)], [f"{ratio:g}" for ratio in snr[:: max(1, snr.size // 6)]])
        axes.minorticks_off()
        axes.set_title(name)
    panels[0].set_ylabel("signal-to-noise ratio")
    marks = (
        Line2D([], [], linestyle="", marker="v", color="white", markeredgecolor="0.35", label="least of all sizes"),
        Line2D([], [], linestyle="", marker="o", color=PALETTE[1], label="least beyond p = n"),
    )
    figure.legend(handles=marks, loc="outside lower center", ncols=2)
    figure.colorbar(mesh, ax=panels, label="log₁₀ excess risk / null excess risk")
    for row, ratio in enumerate(snr):
        for column, size in enumerate(gamma):
            for key, value in zip(
                columns, (size, ratio, blocks["measured"][row, column], blocks["theory"][row, column]), strict=True
            ):
                columns[key].append(float(value))
    return figure, columns


def _caption(data: FigureData) -> Caption:
    curve = data.curves[0]
    draws = f"{curve.num_draws} draws of {round(curve.x['width'][0] / curve.x['gamma'][0])} training rows"
    return Caption(
        [
            "Excess risk as a fraction of that of predicting zero, by model size γ = p/n and signal-to-noise ratio: "
            "measured and asymptotic theory, on one logarithmic scale, cut at its ends.",
            "White triangles: the model size of least risk; dots: that of least risk above p = n, where it is inside "
            "the grid.",
            f"Each colour is the mean of {draws}, within three rows of p = n the median.",
        ]
    )


# a row of the map each, not a line
FIGURE = FigureSpec(
    columns=("excess_risk", "theory_excess_risk"), draw=draw, caption=_caption, most_curves=100, has_lines=False
)
