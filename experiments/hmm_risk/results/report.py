"""The table and the headline of a finished sweep."""

from collections.abc import Sequence

import numpy as np

from lab.experiments.hmm_risk.results.summary import Curve

# range in which the asymptotic line is accurate: nearer to p = n it is too low by (n - p)/(n - p - 1)
_NEAR_THRESHOLD = (0.8, 1.25)

_ROUNDING = 1e-13

_COLUMNS = (
    "curve",
    "width",
    "gamma",
    "excess",
    "s.e.",
    "theory",
    "gap %",
    "exact n",
    "bias",
    "variance",
    "total",
)
_LABEL_COLUMNS = ("curve", "width", "gamma", "accuracy", "s.e.", "log-loss", "s.e. of log-loss")


def summary_table(curves: Sequence[Curve]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the printed table, as text; at p = n, where no mean exists, medians are shown and marked."""
    if "accuracy" in curves[0].mean:
        return list(_LABEL_COLUMNS), [row for curve in curves for row in _label_rows(curve)]
    return list(_COLUMNS), [row for curve in curves for row in _risk_rows(curve)]


def headline(curves: Sequence[Curve]) -> str:
    """The main result in a few words: where the first curve peaks, or how well it does at its widest."""
    curve = curves[0]
    if "accuracy" in curve.mean:
        return f"accuracy {curve.mean['accuracy'].max():.3f}"
    risk = curve.centre("excess_risk")
    gap = largest_gap(curves)
    peak = (
        f"excess risk peaks at gamma {curve.x['gamma'][int(np.argmax(risk))]:.3g}" if np.ptp(curve.x["gamma"]) else ""
    )
    theory = f"theory within {100 * gap:.1f} %" if np.isfinite(gap) else ""
    return ", ".join(part for part in (peak, theory) if part)


def largest_gap(curves: Sequence[Curve]) -> float:
    """Largest |measured / theory - 1| of the excess risk away from p = n; NaN if no theory applies."""
    gaps = [np.nan]
    for curve in curves:
        if "excess_risk" in curve.mean and not curve.is_reference:
            gamma = curve.x["gamma"]
            away = (gamma < _NEAR_THRESHOLD[0]) | (gamma > _NEAR_THRESHOLD[1])
            gaps += np.abs(curve.gap("excess_risk", "excess_risk"))[away].tolist()
    finite = [gap for gap in gaps if np.isfinite(gap)]
    return max(finite, default=float("nan"))


def _risk_rows(curve: Curve) -> list[list[str]]:
    gap = curve.gap("excess_risk", "excess_risk")
    columns = (
        curve.theory["excess_risk"],
        100 * gap,
        curve.theory.get("exact", np.full(gap.size, np.nan)),
        curve.centre("bias"),
        curve.centre("variance"),
        curve.centre("prediction_risk"),
    )
    rows = []
    for k, width in enumerate(curve.x["width"]):
        risk = _number(curve.centre("excess_risk")[k])
        error = f"{curve.standard_error['excess_risk'][k]:.2g}" if curve.has_mean[k] else "median"
        numbers = [_number(column[k]) for column in columns]
        numbers[1] = f"{100 * gap[k]:+.1f}" if np.isfinite(gap[k]) else ""
        rows.append([curve.label, f"{width:.0f}", f"{curve.x['gamma'][k]:.3g}", risk, error, *numbers])
    return rows


def _label_rows(curve: Curve) -> list[list[str]]:
    return [
        [
            curve.label,
            f"{width:.0f}",
            f"{curve.x['gamma'][k]:.3g}",
            *(
                _number(values[name][k])
                for name in ("accuracy", "log_loss")
                for values in (curve.mean, curve.standard_error)
            ),
        ]
        for k, width in enumerate(curve.x["width"])
    ]


def _number(value: float) -> str:
    # print zero for values that are zero up to rounding
    rounded = 0.0 if abs(value) < _ROUNDING else value
    return f"{rounded:.3g}" if np.isfinite(rounded) else ("inf" if np.isinf(rounded) else "")
