"""The findings of a sweep, in words: shape, baselines, distance from theory, and what the error bars hold."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float64
from numpy import ndarray

from lab.experiments.hmm_risk.dependent_rows.finite_size import LARGEST_CORRECTION
from lab.experiments.hmm_risk.results.curves import FEWEST_BELOW, CurveShape, Point, curve_shape
from lab.experiments.hmm_risk.results.report import root_mean_square
from lab.experiments.hmm_risk.results.summary import Curve

# near the threshold the asymptotic line is too low by (n - p)/(n - p - 1), and single draws spread over decades
_NEAR, _CLOSE = (0.8, 1.25), (0.9, 1.1)

# independent draws below which two standard errors are far from nineteen in twenty
_FEW = 10

_DEFINITIONS = {
    "excess_risk": "excess risk",
    "prediction_risk": "total risk",
    "fixed_problem_excess": "excess over the full model's best head",
}


def verdict(curves: Sequence[Curve], *, is_one_problem: bool) -> list[str]:
    """Sentences for every curve, one line each, and about all of them.

    Args:
        curves: of the sweep.
        is_one_problem: whether narrow models are also compared with the best head of the full model.
    """
    definitions = [name for name in _DEFINITIONS if is_one_problem or name != "fixed_problem_excess"]
    lines = []
    for curve in curves:
        parts = []
        if "accuracy" in curve.mean:
            parts += [*_classes(curve), *_spread(curve, "accuracy"), *_tails(curve)]
        else:
            if curve.x["width"].size > 2:
                parts += [
                    _shape(curve, quantity) for quantity in definitions if np.isfinite(curve.centre(quantity)).all()
                ]
            parts += [*_null(curve), *_agreement(curve), *_spread(curve, "excess_risk"), *_tails(curve)]
        lines += [f"{curve.label}: {part}" for part in parts]
    return lines + _about_all(curves)


def _shape(curve: Curve, quantity: str) -> str:
    shape = _curve_shape(curve, quantity)
    name = f"{'' if curve.num_draws else 'in theory, '}{_DEFINITIONS[quantity]}"
    where = f"p = {shape.peak.width}, {_risk(curve, shape.peak)}"
    if shape.peak_is_inside:
        words = [f"{name} peaks at gamma = {_gamma(curve, shape.peak.width)} ({where})"]
    else:
        words = [f"{name} has no peak inside the grid; it is highest at its end ({where})"]
    if shape.best_below is not None:
        best = shape.best_below
        remark = _beside_null(curve, quantity, best)
        if int(np.count_nonzero(curve.x["gamma"] < 1)) < FEWEST_BELOW:
            words.append(f"below p = n its minimum is {_risk(curve, best)} at p = {best.width}{remark}")
        elif shape.first_descent_is_degenerate:
            end = remark or ": degenerate"
            words.append(f"below p = n it is lowest at the smallest model ({_risk(curve, best)}){end}")
        else:
            words.append(f"below p = n it has a sweet spot at p = {best.width} ({_risk(curve, best)}){remark}")
    if shape.best_above is not None:
        best, side = shape.best_above, "below" if shape.second_descent_wins else "above"
        remark = _beside_null(curve, quantity, best)
        than = f", {side} that" if shape.best_below is not None else ""
        words.append(f"above p = n its minimum is {_risk(curve, best)} at p = {best.width}{than}{remark}")
    return "; ".join(words)


def _curve_shape(curve: Curve, quantity: str) -> CurveShape:
    widths = [int(width) for width in curve.x["width"]]
    num_train = round(widths[0] / float(curve.x["gamma"][0]))
    return curve_shape(widths, curve.centre(quantity), num_train=num_train)


def _risk(curve: Curve, point: Point) -> str:
    is_mean = curve.num_draws == 0 or curve.has_mean[_place(curve, point.width)]
    return f"{'' if is_mean else 'median '}{point.risk:.4g}"


def _beside_null(curve: Curve, quantity: str, point: Point) -> str:
    null = float(curve.baseline[quantity][_place(curve, point.width)])
    return f", worse than predicting zero ({null:.4g})" if point.risk > null else ""


def _null(curve: Curve) -> list[str]:
    """Where heads are worse than predicting zero: beyond the error bar, or in the median where there is no mean."""
    total, null = curve.centre("prediction_risk"), curve.baseline["prediction_risk"]
    z = curve.z["prediction_risk"]
    is_worse = np.where(np.isfinite(z), z > curve.clearly, total > null)
    if not is_worse.any():
        return []
    if is_worse.all():
        return ["every size is worse than predicting zero"]
    return [f"worse than predicting zero at {_sizes(curve, is_worse)}"]


def _classes(curve: Curve) -> list[str]:
    """The best size by accuracy and by log-loss, against the best constant guess."""
    parts = []
    for name, words, sign in (("accuracy", "accuracy is highest", 1), ("log_loss", "log-loss is lowest", -1)):
        value, constant = curve.mean[name], curve.baseline[name]
        best = int(np.argmax(sign * (value - constant)))
        place = f"p = {curve.x['width'][best]:.0f}"
        found = f"{words} above a constant guess" if sign > 0 else f"{words} below a constant guess"
        found = f"{found} at {place}: {value[best]:.4g} against {constant[best]:.4g}"
        is_better = _is_better(curve, name, sign)
        if not is_better.any():
            parts.append(f"{name.replace('_', '-')} is no better than a constant guess at any size ({found})")
            continue
        parts.append(found)
        if not is_better.all():
            parts.append(f"{name.replace('_', '-')} is no better than a constant guess at {_sizes(curve, ~is_better)}")
    return parts


def _is_better(curve: Curve, name: str, sign: int) -> Bool[ndarray, " k"]:
    """Better than the baseline by more than chance of so many draws explains; without any spread, better at all."""
    z, gain = sign * curve.z[name], sign * (curve.mean[name] - curve.baseline[name])
    return np.where(np.isfinite(z), z > curve.clearly, gain > 0)


def _agreement(curve: Curve) -> list[str]:
    if curve.num_draws == 0:
        return []
    parts = []
    gamma = curve.x["gamma"]
    for name, line in (
        ("exact", "against the exact finite-n line"),
        ("test", "on test rows, against the exact risk of each draw"),
    ):
        z = curve.z.get(name, np.empty(0))
        if np.isfinite(z).any():
            place = int(np.nanargmax(np.abs(z)))
            parts.append(
                f"{line}, z has a root mean square of {root_mean_square([z]):.2f} over {np.isfinite(z).sum()} "
                f"sizes, at most {abs(z[place]):.2f} (p = {curve.x['width'][place]:.0f}){_of_few(curve)}"
            )
    if curve.is_reference:
        return [*parts, *_reference(curve)]
    # where an exact line is known, the asymptotic one is known to be off
    gap = np.abs(np.where(np.isfinite(curve.theory["exact"]), np.nan, curve.gap("excess_risk", "excess_risk")))
    far = _largest(gap[(gamma < _NEAR[0]) | (gamma > _NEAR[1])])
    close = _largest(gap[(gamma >= _NEAR[0]) & (gamma <= _NEAR[1]) & ((gamma <= _CLOSE[0]) | (gamma >= _CLOSE[1]))])
    words = [f"{far} outside gamma {_NEAR[0]} to {_NEAR[1]}"] if far else []
    words += [f"{close} from there to {_CLOSE[0]} and {_CLOSE[1]}"] if close else []
    if words:
        where = " where no exact line is known" if np.isfinite(curve.theory["exact"]).any() else ""
        parts.append(f"asymptotic theory is within {', '.join(words)}{where}")
    parts += _refusals(curve)
    ignored = _largest(np.abs(curve.gap("excess_risk", "independent_rows")))
    if ignored:
        parts.append(f"theory of independent rows misses by {ignored}")
    return parts


def _of_few(curve: Curve) -> str:
    """What is to be expected of z whose standard error is that of a few draws."""
    if curve.num_independent >= _FEW:
        return ""
    return f"; of {curve.num_independent} draws, one z in twenty is beyond {curve.clearly:.3g} by chance"


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


def _reference(curve: Curve) -> list[str]:
    """Factors between what is measured, means or medians, and the Gaussian reference."""
    with np.errstate(divide="ignore", invalid="ignore"):
        factor = curve.centre("excess_risk") / curve.theory["excess_risk"]
    known = np.isfinite(factor) & ~curve.is_near
    parts = []
    for word, kind in (("means", known & curve.has_mean), ("medians", known & ~curve.has_mean)):
        if kind.any():
            low, high = factor[kind].min(), factor[kind].max()
            parts.append(f"{word} are {low:.2g} to {high:.2g} times the Gaussian reference ({kind.sum()} sizes)")
    return [", ".join(parts)] if parts else []


def _spread(curve: Curve, quantity: str) -> list[str]:
    """How much of the spread is between problems."""
    if curve.num_problems == 1 or curve.num_draws < 2:
        return []
    mean, between = curve.mean[quantity], curve.between[quantity]
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(curve.has_mean & (mean != 0), between / np.abs(mean), np.nan)
        ratio = np.where(curve.has_mean, curve.standard_error[quantity] / curve.within[quantity], np.nan)
    if not np.isfinite(share).any() or not np.isfinite(ratio).any():
        return []
    place = int(np.nanargmax(share))
    return [
        f"between {curve.num_problems} problems the {quantity.replace('_', ' ')} has a standard deviation of up to "
        f"{100 * share[place]:.2g} % of its mean (p = {curve.x['width'][place]:.0f}); with it, standard errors are up "
        f"to {np.nanmax(ratio):.2g} times those of draws of the rows alone"
    ]


def _tails(curve: Curve) -> list[str]:
    if curve.num_draws == 0 or curve.has_mean.all():
        return []
    return [f"no mean is estimated at {_sizes(curve, ~curve.has_mean)}: medians, with 10 and 90 % quantiles"]


def _about_all(curves: Sequence[Curve]) -> list[str]:
    lines = []
    if any(curve.num_draws and curve.problem_is_drawn and curve.num_problems == 1 for curve in curves):
        lines.append("one problem was drawn: the spread between HMMs is not in the error bars; problems=10 adds it")
    rejected = max((curve.labellings_rejected for curve in curves), default=0)
    if rejected:
        of_curves = ", ".join(f"{c.label} {c.labellings_rejected}" for c in curves if c.labellings_rejected)
        lines.append(f"labellings that gave almost all sequences one class were drawn again ({of_curves})")
    return lines


def _sizes(curve: Curve, chosen: Bool[ndarray, " k"]) -> str:
    """The chosen sizes as ranges of neighbouring points of the grid."""
    widths = [f"{width:.0f}" for width in curve.x["width"]]
    ranges: list[list[str]] = []
    for place, is_chosen in enumerate(chosen):
        if is_chosen and place and chosen[place - 1]:
            ranges[-1] = [ranges[-1][0], widths[place]]
        elif is_chosen:
            ranges.append([widths[place]])
    return f"p = {', '.join(' to '.join(part) for part in ranges)}"


def _largest(gaps: Float64[ndarray, " k"]) -> str:
    finite = gaps[np.isfinite(gaps)]
    return f"{100 * finite.max():.1f} %" if finite.size else ""


def _place(curve: Curve, width: int) -> int:
    return [round(known) for known in curve.x["width"].tolist()].index(width)


def _gamma(curve: Curve, width: int) -> str:
    return f"{float(curve.x['gamma'][_place(curve, width)]):.3g}"
