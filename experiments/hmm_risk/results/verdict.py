"""The findings of a sweep, in words: peak, sweet spots under each definition of risk, and distance from theory."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from lab.experiments.hmm_risk.dependent_rows.finite_size import LARGEST_CORRECTION
from lab.experiments.hmm_risk.results.curves import CurveShape, curve_shape
from lab.experiments.hmm_risk.results.summary import Curve

# near the threshold the asymptotic line is too low by (n - p)/(n - p - 1), and single draws spread over decades
_NEAR, _CLOSE = (0.8, 1.25), (0.9, 1.1)

_DEFINITIONS = {
    "excess_risk": "excess risk",
    "prediction_risk": "total risk",
    "fixed_problem_excess": "excess over the full model's best head",
}


def verdict(curves: Sequence[Curve], *, is_one_problem: bool) -> list[str]:
    """Sentences for every curve, one line each.

    Args:
        curves: of the sweep.
        is_one_problem: whether narrow models are also compared with the best head of the full model.
    """
    definitions = [name for name in _DEFINITIONS if is_one_problem or name != "fixed_problem_excess"]
    lines = []
    for curve in curves:
        parts = []
        if "excess_risk" in curve.mean and curve.x["width"].size > 2:
            parts += [_shape(curve, quantity) for quantity in definitions if np.isfinite(curve.centre(quantity)).all()]
        parts += _agreement(curve)
        lines += [f"{curve.label}: {part}" for part in parts]
    return lines


def _shape(curve: Curve, quantity: str) -> str:
    shape = _curve_shape(curve, quantity)
    name = _DEFINITIONS[quantity]
    peak = (
        f"{name} peaks at gamma = {_gamma(curve, shape.peak.width)}" if shape.peak_is_inside else f"{name} has no peak"
    )
    words = [f"{peak} (p = {shape.peak.width}, {shape.peak.risk:.4g})"]
    if shape.best_below is not None:
        if shape.first_descent_is_degenerate:
            words.append(f"below p = n it is lowest at the smallest model ({shape.smallest.risk:.4g}): degenerate")
        else:
            best = shape.best_below
            words.append(f"below p = n it has a sweet spot at p = {best.width} ({best.risk:.4g})")
    if shape.best_above is not None:
        best, side = shape.best_above, "below" if shape.second_descent_wins else "above"
        words.append(f"above p = n its minimum is {best.risk:.4g} at p = {best.width}, {side} that")
    return "; ".join(words)


def _curve_shape(curve: Curve, quantity: str) -> CurveShape:
    widths = [int(width) for width in curve.x["width"]]
    num_train = round(widths[0] / float(curve.x["gamma"][0]))
    return curve_shape(widths, curve.centre(quantity), num_train=num_train)


def _agreement(curve: Curve) -> list[str]:
    parts = []
    gamma = curve.x["gamma"]
    if "excess_risk" in curve.theory and "excess_risk" in curve.mean:
        gap = np.abs(curve.gap("excess_risk", "excess_risk"))
        line = "the Gaussian reference is off by" if curve.is_reference else "theory is within"
        far = _largest(gap[(gamma < _NEAR[0]) | (gamma > _NEAR[1])])
        close = _largest(gap[(gamma >= _NEAR[0]) & (gamma <= _NEAR[1]) & ((gamma <= _CLOSE[0]) | (gamma >= _CLOSE[1]))])
        words = [f"{far} outside gamma {_NEAR[0]} to {_NEAR[1]}"] if far else []
        words += [f"{close} from there to {_CLOSE[0]} and {_CLOSE[1]}"] if close else []
        if words:
            parts.append(f"{line} {', '.join(words)}")
    parts += _refusals(curve)
    others = {"exact": "the exact finite-n line is within", "independent_rows": "theory of independent rows misses by"}
    for name, phrase in others.items():
        if name in curve.theory and np.isfinite(curve.theory[name]).any():
            largest = _largest(np.abs(curve.gap("excess_risk", name)))
            if largest:
                parts.append(f"{phrase} {largest}")
    return parts


def _refusals(curve: Curve) -> list[str]:
    """Why there is no theory at some widths."""
    if "correction" not in curve.theory:
        return []
    corrections = curve.theory["correction"]
    if np.isnan(curve.theory["excess_risk"][np.isnan(corrections)]).any():
        return ["no theory of dependent rows whose start is not stationary; measured risks are exact"]
    refused = corrections > LARGEST_CORRECTION
    if not refused.any():
        return []
    largest = corrections[refused].max()
    size = f"by up to {100 * largest:.3g} %" if np.isfinite(largest) else "without bound"
    count, bound = f"{int(refused.sum())} of {corrections.size}", f"{100 * LARGEST_CORRECTION:g} %"
    return [
        f"no theory at {count} model sizes: it is the limit of many directions of the state and many sequences, which "
        f"its first correction changes {size}, where {bound} is the bound; measured risks are exact there too"
    ]


def _largest(gaps: Float64[ndarray, " k"]) -> str:
    finite = gaps[np.isfinite(gaps)]
    return f"{100 * finite.max():.1f} %" if finite.size else ""


def _gamma(curve: Curve, width: int) -> str:
    return f"{float(curve.x['gamma'][list(curve.x['width']).index(width)]):.3g}"
