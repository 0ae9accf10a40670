"""Captions of figures: what dots, bars, hollow markers and lines mean, and how many draws are behind them."""

from collections.abc import Sequence

import numpy as np

from lab.core.runs.captions import Caption
from lab.experiments.hmm_risk.results.figure_spec import FigureData
from lab.experiments.hmm_risk.results.summary import Curve


def caption(shows: str, data: FigureData, *, quantities: Sequence[str], more: Sequence[str] = ()) -> Caption:
    """The caption of a figure with measured points.

    Args:
        shows: its first sentence.
        data: what is drawn.
        quantities: the columns of its panels.
        more: sentences about marks that only this figure has.
    """
    sentences = [shows, *_points(data, quantities), *_lines(data, quantities), *more, _numbers(data)]
    return Caption([sentence for sentence in sentences if sentence])


def _points(data: FigureData, quantities: Sequence[str]) -> list[str]:
    if not any(curve.num_draws for curve in data.curves):
        return ["Theory alone: nothing was drawn at random but the problem."]
    has_problems = any(curve.num_problems > 1 for curve in data.curves)
    bars = "one standard error"
    bars += " over draws of the HMM and of the rows" if has_problems else " over draws of the training rows"
    one = (
        "" if has_problems or not any(curve.problem_is_drawn for curve in data.curves) else ", for one draw of the HMM"
    )
    sentences = [f"Dots: means; bars: {bars}{one}."]
    if not all(curve.has_mean.all() for curve in data.curves):
        words = "medians, with bars from the 10 to the 90 % quantile"
        has_tiny = any(curve.ridge != "0" and (curve.is_near & ~curve.has_mean).any() for curve in data.curves)
        ridge = "without ridge or with a tiny one" if has_tiny else "without ridge"
        sentences.append(
            f"Hollow markers: {words}, where a mean estimates nothing: within three rows of p = n {ridge}, and "
            "where single draws decide it."
        )
        if len(data.curves) > 1:
            sentences.append("Hollow markers beside each other belong to the same size.")
    if any(curve.is_reference or not set(quantities) <= curve.theory.keys() for curve in data.curves):
        sentences.append("Thin lines join the points of a curve.")
    return sentences


def _lines(data: FigureData, quantities: Sequence[str]) -> list[str]:
    sentences = []
    for name, is_reference in (
        ("Solid lines: asymptotic theory", False),
        ("Dotted lines: theory of Gaussian features", True),
    ):
        curves = [curve for curve in data.curves if curve.is_reference is is_reference and _has_any(curve, quantities)]
        if not curves:
            continue
        end = " with the same second moments, a reference and not a prediction for these data" if is_reference else ""
        is_dense = all(curve.label in data.lines for curve in curves)
        joined = "" if is_dense else ", joined by straight lines between the sizes of the dots"
        sentences.append(f"{name}{end}{joined}.")
    exact = [curve for curve in data.curves if np.isfinite(curve.theory.get("exact", np.full(1, np.nan))).any()]
    if exact and set(quantities) & {"excess_risk", "prediction_risk", "fixed_problem_excess"}:
        sentences.append("Dashed lines: the exact mean at this number of rows, where it has a closed form.")
    if any(quantity in curve.baseline for curve in data.curves for quantity in quantities):
        is_class = "accuracy" in quantities
        known = "the best constant guess on the test rows" if is_class else "the risk of predicting zero"
        sentences.append(f"Dash-dotted lines: {known}.")
        if is_class and data.num_classes is not None:
            sentences.append(f"Dotted lines: chance among {data.num_classes} classes.")
    return sentences


def _has_any(curve: Curve, quantities: Sequence[str]) -> bool:
    return any(np.isfinite(curve.theory[name]).any() for name in quantities if name in curve.theory)


def _numbers(data: FigureData) -> str:
    """How many rows, draws and problems, and which seeds."""
    rows = sorted(
        {round(float(w / g)) for curve in data.curves for w, g in zip(curve.x["width"], curve.x["gamma"], strict=True)}
    )
    draws = sorted({curve.num_draws for curve in data.curves})
    problems = sorted({curve.num_problems for curve in data.curves})
    text = f"n = {_listed(rows)} training rows"
    if draws != [0]:
        text += f", {_listed(draws)} draws of them"
    if problems != [1]:
        text += f"{',' if draws == [0] else ''} for each of {_listed(problems)} draws of the HMM"
    if data.seeds:
        text += f"; seed {_listed(sorted(set(data.seeds)))}"
    return f"{text}."


def _listed(numbers: Sequence[int]) -> str:
    """Few numbers in full; of many, the range."""
    if len(numbers) > 3:
        return f"{numbers[0]} to {numbers[-1]}"
    words = [str(number) for number in numbers]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
