"""Report of a probe: a line for each width and strength, and what it says in sentences."""

import math
from collections.abc import Iterator, Sequence

import numpy as np

from lab.core.runs.json_files import Entry
from lab.experiments.probe.config import Basis
from lab.experiments.probe.layers import comparisons
from lab.experiments.probe.limits import limits, of_other_risk
from lab.experiments.probe.results import (
    ESTIMATES,
    LINES,
    NEAR,
    OF_CONTEXTS,
    Point,
    Results,
    lowest,
)
from lab.experiments.probe.rows import CurveRow

_COLUMNS = (
    "curve",
    "n",
    "p",
    "ridge",
    "risk",
    "low",
    "high",
    "floor",
    "Gaussian",
    "Gaussian gap %",
    "elliptical",
    "elliptical gap %",
    "empirical",
    "empirical gap %",
    "exact n",
    "leave-one-out",
    "GCV",
)
# of a curve, in a table that one reads
_MOST_WIDTHS = 9
_NAMES = {
    "gaussian": "Gaussian line",
    "leave_one_out": "leave-one-out",
    "gcv": "GCV",
    "corr_gcv": "CorrGCV",
    "leave_one_context_out": "leave-one-context-out",
    "cross_validation": "cross-validation",
}


def summary_table(results: Results) -> tuple[list[str], list[list[Entry]]]:
    """Header and rows: of each n and width the minimum-norm head, and the strength that is best on average.

    Of many widths, only some stand in it: the first, the last, the best one, and others between them.
    """
    lines: list[list[Entry]] = []
    with_classes = bool(results.classes)
    for curve in results.curves:
        for num_train in results.sizes():
            points = results.of_curve(curve["curve"], num_train)
            for width in _shown_widths(points):
                mine = [point for point in points if point.width == width]
                shown = [point for point in mine if point.ridge == 0]
                best = lowest(mine)
                for point in [*shown, *([best] if best.ridge else [])]:
                    lines.append(_line(point, results, with_classes=with_classes))
    columns = [*_COLUMNS, *(_NAMES[name] for name in OF_CONTEXTS if results.has_contexts)]
    return [*columns, *(["accuracy", "log-loss"] if with_classes else [])], lines


def _shown_widths(points: Sequence[Point]) -> list[int]:
    widths = sorted({point.width for point in points})
    if len(widths) <= _MOST_WIDTHS:
        return widths
    places = {round(place) for place in np.linspace(0, len(widths) - 1, _MOST_WIDTHS - 1)}
    best = lowest(points).width
    return sorted({best, *(widths[place] for place in places)})


def _line(point: Point, results: Results, *, with_classes: bool) -> list[Entry]:
    is_mean = point.summary == "mean"
    lines: list[Entry] = []
    for name in LINES:
        lines += [_known(point, name), _gap(point, name)]
    classes: list[Entry] = []
    if with_classes:
        # rows drawn with the moments of others have numbers for targets
        key = point.curve, point.num_train, point.width, point.ridge
        classes += results.classes.get(key, (None, None))
    return [
        point.curve,
        point.num_train,
        point.width,
        point.ridge,
        point.mean,
        point.low if is_mean else None,
        point.high if is_mean else None,
        _known(point, "floor"),
        *lines,
        point.lines.get("exact"),
        *(point.estimates[name] for name in ESTIMATES if results.has_contexts or name not in OF_CONTEXTS),
        *classes,
    ]


def _known(point: Point, line: str) -> float | None:
    """None without the line, and where it is not known."""
    value = point.lines.get(line, math.nan)
    return None if math.isnan(value) else value


def _gap(point: Point, line: str) -> float | None:
    """None without the line, and where it is infinite."""
    return point.gap(line) if math.isfinite(point.lines.get(line, math.inf)) else None


def headline(results: Results) -> str:
    """The lowest risk of each curve in a few words."""
    size = results.sizes()[-1]
    words = []
    for curve in results.curves[:6]:
        best = results.best(curve["curve"], size)
        words.append(f"{curve['curve'] or 'lowest risk'} {best.mean:.3g} at p = {best.width}, ridge {best.ridge:g}")
    return f"n = {size}: {'; '.join(words)}"


def verdict(results: Results, basis: Basis) -> list[str]:
    """The findings in sentences, and what they do not say."""
    sentences: list[str] = []
    for curve in results.curves:
        name = f"{curve['curve']}: " if curve["curve"] else ""
        sentences += [f"{name}{sentence}" for sentence in _of_curve(results, curve["curve"])]
        sentences.append(f"{name}{_rows(curve)}")
        if curve.get("guess_accuracy") is not None:
            sentences.append(f"{name}{_classes(results, curve)}")
    sentences += _choices(results)
    sentences += comparisons(results)
    num_widths = len({point.width for point in results.points})
    if num_widths > _MOST_WIDTHS:
        sentences.append(
            f"the table shows at most {_MOST_WIDTHS} of {num_widths} widths of a curve; the figures show all, and "
            "lab show RUN --csv prints them, a line for each draw"
        )
    draws = results.points[0].risks.size
    sentences.append(
        f"risks are over that of predicting zero; intervals of 95 %: Student's, over {draws} draws; next to p = n "
        "without ridge, or with next to none, medians, without interval; a gap is how far what is measured lies above "
        "a line, or an estimate from training rows above what is measured (without ridge a median over draws above a "
        "median)"
    )
    return [*sentences, *limits(results, basis)]


def _rows(curve: CurveRow) -> str:
    """How the rows differ from Gaussian ones, as far as there are enough of them."""
    cosine = f"the median row of a draw has another at cosine {curve['cosine']:.2f}"
    # null in a table that was written and read
    if curve["leverage_sd"] is None or math.isnan(curve["leverage_sd"]):
        return cosine
    return (
        f"leverage varies by {100 * curve['leverage_sd']:.0f} % of its mean (Gaussian rows: "
        f"{100 * np.sqrt(2 / curve['num_features']):.0f} %); {cosine}"
    )


def _of_curve(results: Results, curve: str) -> Iterator[str]:
    def gaps(points: Sequence[Point]) -> str:
        return _gaps(points, with_contexts=results.has_contexts)

    for num_train in results.sizes():
        away = [point for point in results.of_curve(curve, num_train) if point.is_away]
        plain = [point for point in away if point.ridge == 0]
        if plain:
            yield f"n = {num_train}, no ridge, outside gamma 0.8 to 1.25: {gaps(plain)}"
        strong = [
            point
            for point in away
            if point.ridge > 0 and point.ridge >= _best_ridge(results, curve, num_train, point.width)
        ]
        if strong:
            with_lines = dict.fromkeys(point.width for point in strong if not _is_without_lines(point))
            steps = [_steps(results, curve, num_train, width) for width in with_lines]
            yield f"n = {num_train}, at the best ridge and above: {gaps(strong)}" + (
                f"; the elliptical line's best ridge is at most {max(steps)} grid steps from the measured one"
                if steps
                else ""
            )
    without = sorted({point.width for point in results.points if point.curve == curve and _is_without_lines(point)})
    if without:
        yield (
            f"no floor and no lines at p = {', '.join(map(str, without))}, where a head fits all rows of the pool: "
            "their noise is not known"
        )
    lost = sorted({point.width for point in results.points if point.curve == curve and _is_without_empirical(point)})
    if lost:
        yield f"no empirical line at p = {', '.join(map(str, lost))}, where its equations have no solution"


def _is_without_empirical(point: Point) -> bool:
    is_asked = point.ridge == 0 and point.rank != point.num_train and not _is_without_lines(point)
    return is_asked and "empirical" not in point.lines


def _is_without_lines(point: Point) -> bool:
    return math.isnan(point.lines.get("floor", math.nan))


def _gaps(points: Sequence[Point], *, with_contexts: bool) -> str:
    """The largest and the median gap to every line, and to what the training rows alone say."""
    words = []
    for name in (*LINES, *ESTIMATES):
        if name in OF_CONTEXTS and not with_contexts:
            continue
        gaps = [gap for point in points if math.isfinite(gap := point.gap(name))]
        if gaps:
            worst = max(gaps, key=abs)
            shown = _NAMES.get(name, f"{name} line")
            middle = float(np.median(np.abs(gaps)))
            words.append(
                f"{shown} off by at most {worst:+.1f} %, median {middle:.1f} %{_of_medians(points, name)}"
                f"{_beyond(points, name)}"
            )
        words += _without(points, name)
    return ", ".join(words)


def _of_medians(points: Sequence[Point], name: str) -> str:
    """How far median risks lie from a line without ridge: where rows are near-copies, few draws decide on the mean."""
    if name not in LINES or any(point.ridge > 0 for point in points):
        return ""
    gaps = [gap for point in points if not math.isnan(gap := point.median_gap(name))]
    return f", from median risks at most {max(gaps, key=abs):+.1f} %"


def _without(points: Sequence[Point], name: str) -> Iterator[str]:
    """The widths at which an estimate from training rows is not known or infinite."""
    unknown = sorted({point.width for point in points if math.isnan(point.estimates.get(name, 0.0))})
    infinite = sorted({point.width for point in points if math.isinf(point.estimates.get(name, 0.0))})
    # runs of earlier versions have fewer estimates
    if unknown and name == "leave_one_context_out":
        yield (
            f"no {_NAMES[name]} error at p = {', '.join(map(str, unknown))}, where one context alone determines a "
            "direction"
        )
    elif unknown and len(unknown) < len({point.width for point in points}):
        yield f"no {_NAMES[name]} at p = {', '.join(map(str, unknown))}"
    if infinite:
        yield f"{_NAMES[name]} infinite at p = {', '.join(map(str, infinite))}"


def _beyond(points: Sequence[Point], name: str) -> str:
    """How many points are further off a line than their intervals explain."""
    if name not in LINES:
        return ""
    number = sum(point.is_beyond(name, NEAR) for point in points)
    with_line = sum(not math.isnan(point.gap(name)) for point in points)
    return f" ({number} of {with_line} points beyond {NEAR:g} % with all of their interval)" if number else ""


def _best_ridge(results: Results, curve: str, num_train: int, width: int) -> float:
    mine = [point for point in results.of_curve(curve, num_train) if point.width == width]
    return lowest(mine).ridge


def _steps(results: Results, curve: str, num_train: int, width: int) -> int:
    """Grid steps between the ridge that is best by the elliptical line and the measured one."""
    mine = [point for point in results.of_curve(curve, num_train) if point.width == width]
    mine.sort(key=lambda point: point.ridge)
    return abs(
        [point.ridge for point in mine].index(lowest(mine).ridge)
        - int(np.argmin([point.lines["elliptical"] for point in mine]))
    )


def _classes(results: Results, curve: object) -> str:
    assert isinstance(curve, dict), "a row of the table"
    size = results.sizes()[-1]
    mine = {key: value for key, value in results.classes.items() if key[0] == curve["curve"] and key[1] == size}
    most, least = max(mine, key=lambda key: mine[key][0]), min(mine, key=lambda key: mine[key][1])
    return (
        f"n = {size}: of {len(mine)} heads, the best in hindsight on the held-out rows have accuracy "
        f"{100 * mine[most][0]:.1f} % (p = {most[2]}, ridge {most[3]:g}), constant guess "
        f"{100 * curve['guess_accuracy']:.1f} %, and log-loss {mine[least][1]:.3f} nats (p = {least[2]}, ridge "
        f"{least[3]:g}), constant guess {curve['guess_log_loss']:.3f}; such a choice is too good by chance"
    )


def _choices(results: Results) -> Iterator[str]:
    for how in dict.fromkeys(choice.how for choice in results.choices):
        costs = np.concatenate([choice.costs for choice in results.choices if choice.how == how])
        yield (
            f"width and ridge chosen from training rows alone by {_NAMES[how]}: a risk {np.median(costs):.2f} % above "
            f"the best in hindsight (median of {costs.size} draws; nine in ten at most {np.quantile(costs, 0.9):.2f} %)"
            f"{of_other_risk(results, how)}"
        )
