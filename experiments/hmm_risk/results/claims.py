"""What a finished sweep bears out of the claims about head tuning, from the table of its summary."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import fmean

from lab.core.errors import RunError
from lab.core.report.content import Claim, Entry, Findings, Verdict, share_verdict
from lab.core.report.recorded import RecordedRun

# around p = n: a peak in it is the one of the theory, and asymptotic lines are accurate outside the wider range
_AT_THRESHOLD = (0.9, 1.12)
_NEAR_THRESHOLD = (0.8, 1.25)

# more standard errors than this are a difference; a root mean square of z up to this is what chance gives
_CLEARLY, _LARGEST_RMS = 2.0, 1.25

# relative distances from an asymptotic line that count as agreement
_CLOSE = 0.05

# of curves, named one by one
_MOST_NAMED = 6


@dataclass(frozen=True, slots=True)
class _Curve:
    """Rows of one curve: numbers by column, None where there is none."""

    label: str
    columns: dict[str, list[float | None]]
    is_mean: list[bool]

    def __getitem__(self, name: str) -> list[float | None]:
        return self.columns.get(name, [None] * len(self.is_mean))

    def has(self, *names: str) -> bool:
        """Whether some row has a number in each of the columns."""
        return any(all(self[name][place] is not None for name in names) for place in range(len(self.is_mean)))

    def places(self, *names: str) -> list[int]:
        """Rows with a number in each of the columns."""
        return [place for place in range(len(self.is_mean)) if all(self[name][place] is not None for name in names)]


def findings(run: RecordedRun) -> Findings:
    """Claims, and what was drawn how often."""
    table, _ = run.summary
    curves = [] if table is None else _curves(table.columns, table.rows)
    figures = [path.stem for path in run.figures]
    faults: list[str] = []
    if any(curve.has("accuracy") for curve in curves):
        claims = list(_about_classes(curves))
    else:
        claims = list(_about_risk(curves, is_reference=_has_reference_only(run, faults)))
    keys = {"num_train": "rows", "replicates": "draws of the rows", "problems": "draws of the HMM", "num_test": "test"}
    design = {name: str(run.config[key]) for key, name in keys.items() if run.config.get(key) is not None}
    # the first figure is the one that the experiment is about
    if claims and figures:
        claims[0] = replace(claims[0], figure=figures[0])
    return Findings(claims=claims, design=design, faults=faults)


def _curves(columns: Sequence[str], rows: Sequence[Sequence[Entry]]) -> list[_Curve]:
    grouped: dict[str, list[Sequence[Entry]]] = {}
    for row in rows:
        grouped.setdefault(str(row[0] or ""), []).append(row)
    found = []
    for label, mine in grouped.items():
        numbers = {name: [_number(row[place]) for row in mine] for place, name in enumerate(columns[1:], start=1)}
        is_mean = [not any(entry == "median" for entry in row) for row in mine]
        found.append(_Curve(label or "the curve", numbers, is_mean))
    return found


def _number(entry: Entry) -> float | None:
    try:
        number = float(entry)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _has_reference_only(run: RecordedRun, faults: list[str]) -> bool:
    """Whether theory is that of Gaussian features with the same second moments: no prediction for these data."""
    try:
        return any(row["gaussian_reference"] for row in run.table_rows(["gaussian_reference"]))
    except RunError as error:
        faults.append(str(error))
        return False


def _about_risk(curves: Sequence[_Curve], *, is_reference: bool) -> Iterator[Claim]:
    for about in (_peak, _exact, partial(_asymptotic, is_reference=is_reference), _degenerate, _better_than_zero):
        claim = about(curves)
        if claim is not None:
            yield claim


def _peak(curves: Sequence[_Curve]) -> Claim | None:
    def judge(curve: _Curve) -> tuple[bool, str] | None:
        places = curve.places("gamma", "excess")
        gammas = [_known(curve["gamma"], place) for place in places]
        if not places or min(gammas) >= _AT_THRESHOLD[0] or max(gammas) <= _AT_THRESHOLD[1]:
            return None
        place = max(places, key=lambda place: _known(curve["excess"], place))
        gamma = _known(curve["gamma"], place)
        word = f"its highest value, {_value(curve, 'excess', 's.e.', place)}, at gamma {gamma:.3g}"
        return _AT_THRESHOLD[0] <= gamma <= _AT_THRESHOLD[1], word

    return _judged("Excess risk is highest where there are as many features as rows (p = n)", curves, judge)


def _exact(curves: Sequence[_Curve]) -> Claim | None:
    z = [_known(curve["z"], place) for curve in curves for place in curve.places("z")]
    if not z:
        return None
    rms, beyond = math.sqrt(fmean(value**2 for value in z)), sum(abs(value) > _CLEARLY for value in z)
    return Claim(
        statement="Measured means agree with the exact risk for finite n",
        verdict=Verdict.holds if rms <= _LARGEST_RMS else Verdict.fails,
        evidence=f"Distances in standard errors have the root mean square {rms:.2f} at {len(z)} points, where chance "
        f"alone gives 1; {beyond} of them are beyond {_CLEARLY:g}.",
    )


def _asymptotic(curves: Sequence[_Curve], *, is_reference: bool) -> Claim | None:
    def judge(curve: _Curve) -> tuple[bool, str] | None:
        # theory is of means
        places = [place for place in curve.places("gamma", "excess", "theory") if curve.is_mean[place]]
        if len({_known(curve["gamma"], place) for place in places}) > 1:
            low, high = _NEAR_THRESHOLD
            places = [place for place in places if not low <= _known(curve["gamma"], place) <= high]
        gaps = [
            abs(_known(curve["excess"], place) / _known(curve["theory"], place) - 1)
            for place in places
            if _known(curve["theory"], place) > 0
        ]
        return (max(gaps) <= _CLOSE, f"largest distance {100 * max(gaps):.2g} %") if gaps else None

    low, high = _NEAR_THRESHOLD
    theory = "The theory of Gaussian features with the same moments" if is_reference else "Random-matrix theory"
    statement = f"{theory} is within {100 * _CLOSE:.0f} % outside gamma {low:g} to {high:g}"
    return _judged(statement, curves, judge)


def _degenerate(curves: Sequence[_Curve]) -> Claim | None:
    def judge(curve: _Curve) -> tuple[bool, str] | None:
        places = [place for place in curve.places("width", "gamma", "excess") if _known(curve["gamma"], place) < 1]
        # along another axis than the width, such as the length of the context, there is no smallest model
        if len(places) < 3 or len({_known(curve["width"], place) for place in places}) < len(places):
            return None
        best = min(places, key=lambda place: _known(curve["excess"], place))
        smallest = min(places, key=lambda place: _known(curve["width"], place))
        word = f"least at p = {_known(curve['width'], best):.0f} ({_value(curve, 'excess', 's.e.', best)})"
        return best == smallest, word

    return _judged("Below p = n the smallest model has the least excess risk (a degenerate descent)", curves, judge)


def _better_than_zero(curves: Sequence[_Curve]) -> Claim | None:
    def judge(curve: _Curve) -> tuple[bool, str] | None:
        places = curve.places("total", "null")
        if not places:
            return None
        best = min(places, key=lambda place: _known(curve["total"], place) - _known(curve["null"], place))
        total, null = _known(curve["total"], best), _known(curve["null"], best)
        margin = _CLEARLY * (curve["s.e."][best] or 0.0)
        return total + margin < null, f"least total risk {total:.3g}, of predicting zero {null:.3g}"

    return _judged("At its best width a head predicts better than zero", curves, judge)


def _about_classes(curves: Sequence[_Curve]) -> Iterator[Claim]:
    def judge(curve: _Curve) -> tuple[bool, str] | None:
        places = curve.places("width", "accuracy")
        if not places:
            return None
        best = max(places, key=lambda place: _known(curve["accuracy"], place))
        width, guess = _known(curve["width"], best), curve["constant accuracy"][best]
        found = f"accuracy {_value(curve, 'accuracy', 's.e.', best)} at p = {width:.0f}"
        if guess is None:
            return None
        z = curve["z of accuracy"][best]
        margin = _CLEARLY * (curve["s.e."][best] or 0.0)
        is_better = z > _CLEARLY if z is not None else _known(curve["accuracy"], best) - margin > guess
        return is_better, f"{found}, a constant guess {guess:.3g}"

    statement = "At its best width a head is right more often than the best constant guess"
    claim = _judged(statement, curves, judge)
    yield claim or Claim(
        statement=statement, verdict=Verdict.undecided, evidence="The table has no constant guess to compare with."
    )


def _judged(
    statement: str, curves: Sequence[_Curve], judge: Callable[[_Curve], tuple[bool, str] | None]
) -> Claim | None:
    """A claim about curves, of which each bears it out or not; None if it can be asked of none of them."""
    judged = [(curve.label, answer) for curve in curves if (answer := judge(curve)) is not None]
    if not judged:
        return None
    bearing = sum(holds for _, (holds, _) in judged)
    # what speaks against it first
    ordered = sorted(judged, key=lambda entry: entry[1][0])
    named = [f"{label}: {word}" for label, (_, word) in ordered[:_MOST_NAMED]]
    rest = f"; {len(judged) - _MOST_NAMED} more in the table" if len(judged) > _MOST_NAMED else ""
    return Claim(
        statement=statement,
        verdict=share_verdict(bearing, len(judged)),
        evidence=f"True of {bearing} of {len(judged)} curves. {'; '.join(named)}{rest}.",
    )


def _value(curve: _Curve, name: str, error: str, place: int) -> str:
    """A number with the interval of two standard errors, or what else it is."""
    number, standard_error = _known(curve[name], place), curve[error][place]
    if not curve.is_mean[place]:
        low, high = curve["10 %"][place], curve["90 %"][place]
        spread = "" if low is None or high is None else f", 10 to 90 % of the draws {low:.3g} to {high:.3g}"
        return f"{number:.3g} (median{spread})"
    return f"{number:.3g}" if standard_error is None else f"{number:.3g} ± {2 * standard_error:.2g}"


def _known(column: Sequence[float | None], place: int) -> float:
    number = column[place]
    assert number is not None, "the caller has chosen rows with a number"
    return number
