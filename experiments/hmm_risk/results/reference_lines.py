"""Lines to compare measured points with: asymptotic and exact theory between the dots, and what no features achieve."""

# Letters: k points of a curve, j points of a line.

import numpy as np
from jaxtyping import Float64
from matplotlib.axes import Axes
from numpy import ndarray

from lab.experiments.hmm_risk.results.figure_spec import FigureData, Line
from lab.experiments.hmm_risk.results.summary import Curve

# entries of legends, which captions explain
THEORY, REFERENCE, EXACT = "theory", "Gaussian reference", "exact mean at this n"
NULL, CONSTANT, CHANCE = "predicting zero", "constant guess", "chance"

_GREY = "0.35"
# what the exact excess risk is added to, by quantity
_EXACT_PLUS = {"excess_risk": None, "prediction_risk": "noise_floor", "fixed_problem_excess": "misspecification"}
# baselines that differ less are one line
_SAME = 1e-6


def draw_theory(axes: Axes, data: FigureData, quantity: str) -> None:
    """The asymptotic line of every curve, and the exact mean at finite n where there is one."""
    drawn = set()
    for curve, style in zip(data.curves, data.styles(), strict=True):
        line = data.lines.get(curve.label)
        kind = REFERENCE if curve.is_reference else THEORY
        for x, y in _sides(*_asymptotic(curve, quantity, line)):
            axes.plot(x, y, ":" if curve.is_reference else "-", color=style.color, zorder=3)
            drawn.add(kind)
        for x, y in _sides(*_exact(curve, quantity, line)):
            axes.plot(x, y, color=style.color, linewidth=0.7, linestyle=(0, (4, 2)), zorder=3.1)
            drawn.add(EXACT)
    styles = {THEORY: "-", REFERENCE: ":", EXACT: (0, (4, 2))}
    for name, look in styles.items():
        if name in drawn:
            axes.plot([], [], color=_GREY, linestyle=look, linewidth=0.7 if name == EXACT else 1.0, label=name)


def plotted_theory(curve: Curve, quantity: str) -> Float64[ndarray, " k"]:
    """The exact mean of a quantity at the dots; NaN without one."""
    missing = np.full(curve.has_mean.size, np.nan)
    if "exact" not in curve.theory or quantity not in _EXACT_PLUS:
        return missing
    extra = {
        "excess_risk": np.zeros(missing.size),
        "prediction_risk": curve.floor,
        "fixed_problem_excess": curve.baseline["fixed_problem_excess"] - curve.baseline["excess_risk"],
    }
    return curve.theory["exact"] + extra[quantity]


def draw_baselines(axes: Axes, data: FigureData, quantity: str) -> None:
    """The risk of predicting zero, or a constant guess and chance: one grey line if all curves share it."""
    is_class = quantity in ("accuracy", "log_loss")
    name = CONSTANT if is_class else NULL
    known = [
        (style, *_baseline(curve, quantity, data.lines.get(curve.label)))
        for curve, style in zip(data.curves, data.styles(), strict=True)
        if quantity in curve.baseline
    ]
    if known:
        values = np.concatenate([y for _, _, y in known])
        if np.ptp(values) <= _SAME * np.abs(values).max():
            axes.axhline(float(values[0]), color="0.45", linewidth=0.8, linestyle="-.", zorder=1, label=name)
        else:
            for style, x, y in known:
                axes.plot(x, y, color=style.color, linewidth=0.7, linestyle="-.", zorder=1)
            axes.plot([], [], color=_GREY, linewidth=0.7, linestyle="-.", label=name)
    if is_class and data.num_classes is not None:
        chance = 1 / data.num_classes if quantity == "accuracy" else float(np.log(data.num_classes))
        axes.axhline(chance, color="0.45", linewidth=0.8, linestyle=(0, (1, 2)), zorder=1, label=CHANCE)


def _baseline(curve: Curve, quantity: str, line: Line | None) -> tuple[Float64[ndarray, " j"], Float64[ndarray, " j"]]:
    if line is None or quantity not in _EXACT_PLUS:
        return curve.x["gamma"], curve.baseline[quantity]
    less = 0.0 if quantity == "prediction_risk" else line["noise_floor"]
    plus = line["misspecification"] if quantity == "fixed_problem_excess" else 0.0
    return line["gamma"], line["null_risk"] - less + plus


def _asymptotic(
    curve: Curve, quantity: str, line: Line | None
) -> tuple[Float64[ndarray, " j"], Float64[ndarray, " j"]]:
    column = f"theory_{quantity}"
    if line is not None and column in line:
        return line["gamma"], line[column]
    return curve.x["gamma"], curve.theory.get(quantity, np.full(curve.has_mean.size, np.nan))


def _exact(curve: Curve, quantity: str, line: Line | None) -> tuple[Float64[ndarray, " j"], Float64[ndarray, " j"]]:
    if line is not None and "theory_exact" in line and quantity in _EXACT_PLUS:
        plus = _EXACT_PLUS[quantity]
        return line["gamma"], line["theory_exact"] + (0.0 if plus is None else line[plus])
    return curve.x["gamma"], plotted_theory(curve, quantity)


def _sides(x: Float64[ndarray, " j"], y: Float64[ndarray, " j"]) -> list[tuple[ndarray, ndarray]]:
    """The line below and above p = n: without ridge it is infinite in between."""
    is_whole = bool(np.isfinite(y[np.isclose(x, 1)]).any())
    sides = [np.isfinite(y)] if is_whole else [np.isfinite(y) & (x < 1), np.isfinite(y) & (x > 1)]
    return [(x[side], y[side]) for side in sides if side.any()]
