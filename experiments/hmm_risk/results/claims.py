"""What a finished sweep bears out of the claims about head tuning, from the table of its summary."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import fmean

from scipy.special import stdtrit

from lab.core.errors import RunError
from lab.core.report.content import Claim, Findings, Verdict, share_verdict
from lab.core.report.recorded import RecordedRun
from lab.experiments.hmm_risk.results.claim_curves import ClaimCurve, claim_curves, known, with_interval
from lab.experiments.hmm_risk.results.curves import FEWEST_BELOW
from lab.experiments.hmm_risk.results.spread import clear_distance
from lab.experiments.hmm_risk.results.table_draws import TableDraws, table_draws

# around p = n: a peak in it is the one of the theory, and asymptotic lines are accurate outside the wider range
_AT_THRESHOLD = (0.9, 1.12)
_NEAR_THRESHOLD = (0.8, 1.25)

# distances in standard errors that are counted; what is concluded from them is Student's
_COUNTED = 2.0
# runs in which chance alone may refute an exact line
_BY_CHANCE = 0.05

# relative distances from an asymptotic line that count as agreement
_CLOSE = 0.05

# of curves, named one by one
_MOST_NAMED = 4

# share of the excess risk up to which a bias is rounding
_NO_BIAS = 1e-6

# figures in which a quantity is seen
_SHOWN_BY = {
    "excess": ("excess_risk", "total_and_excess", "dependence", "snr_map", "fixed_problem_excess"),
    "total": ("total_risk", "total_and_excess", "context"),
    "bias": ("bias_variance",),
    "classes": ("downstream",),
}


@dataclass(frozen=True, slots=True)
class _Answer:
    """What a curve says of a claim.

    Attributes:
        holds: whether it bears it out.
        word: the numbers, with their intervals.
        value: the number that the claim is about.
    """

    holds: bool
    word: str
    value: float


def findings(run: RecordedRun) -> Findings:
    """Claims, and what was drawn how often."""
    table, _ = run.summary
    curves = [] if table is None else claim_curves(table.columns, table.rows)
    faults: list[str] = []
    draws = _draws(run, faults)
    num_draws = 0 if draws is None else draws.independent
    if any(curve.has("accuracy") for curve in curves):
        claims = list(_about_classes(curves, num_draws=num_draws))
    else:
        is_reference = draws is not None and _has_reference_only(run, faults)
        claims = list(_about_risk(curves, is_reference=is_reference, num_draws=num_draws))
    figures, drawn = [path.stem for path in run.figures], _drawn(run, draws)
    claims = [
        replace(claim, figure=_figure_of(claim.figure, figures), evidence=f"{claim.evidence}{drawn}")
        for claim in claims
    ]
    return Findings(claims=claims, design=_design(run, draws), faults=faults)


def _draws(run: RecordedRun, faults: list[str]) -> TableDraws | None:
    """The draws in the table; None if it cannot be read."""
    try:
        draws = table_draws(run.directory)
    except RunError as error:
        faults.append(str(error))
        return None
    if not draws.are_those_of(run.config):
        resumed = f"resume={run.directory.name} goes on with it"
        faults.append(f"its table is of an earlier attempt, with {draws}; {resumed}")
    return draws


def _design(run: RecordedRun, draws: TableDraws | None) -> dict[str, str]:
    """Numbers of rows and draws, in words; of draws, those that there are."""
    keys = {"num_train": "rows", "replicates": "draws of the rows", "problems": "draws of the HMM", "num_test": "test"}
    found = {} if draws is None else {"replicates": draws.replicates, "problems": draws.problems}
    given = {**run.config, **found}
    return {name: str(given[key]) for key, name in keys.items() if given.get(key) is not None}


def _drawn(run: RecordedRun, draws: TableDraws | None) -> str:
    """What a number is made of: draws, problems and seeds."""
    if draws is None or draws.replicates == "0":
        return ""
    seed = run.config.get("seed")
    return f" {draws}{'' if seed is None else f', seed {seed}'}; ± is two standard errors."


def _figure_of(quantity: str, figures: Sequence[str]) -> str:
    """The figure of a run that shows a quantity: the first of those that may; else the first of all."""
    return next((name for name in (*_SHOWN_BY.get(quantity, ()), *figures) if name in figures), "")


def _has_reference_only(run: RecordedRun, faults: list[str]) -> bool:
    """Whether theory is that of Gaussian features with the same second moments: no prediction for these data."""
    try:
        return any(row["gaussian_reference"] for row in run.table_rows(["gaussian_reference"]))
    except RunError as error:
        faults.append(str(error))
        return False


def _about_risk(curves: Sequence[ClaimCurve], *, is_reference: bool, num_draws: int) -> Iterator[Claim]:
    theory = partial(_asymptotic, is_reference=is_reference)
    exact, better = partial(_exact, num_draws=num_draws), partial(_better_than_zero, num_draws=num_draws)
    for about in (_peak, _means, exact, theory, _bias, _degenerate, better):
        claim = about(curves)
        if claim is not None:
            yield claim


def _peak(curves: Sequence[ClaimCurve]) -> Claim | None:
    def judge(curve: ClaimCurve) -> _Answer | None:
        places = curve.places("gamma", "excess")
        gammas = [known(curve["gamma"], place) for place in places]
        if not places or min(gammas) >= _AT_THRESHOLD[0] or max(gammas) <= _AT_THRESHOLD[1]:
            return None
        place = max(places, key=lambda place: known(curve["excess"], place))
        gamma = known(curve["gamma"], place)
        word = f"its highest value, {with_interval(curve, 'excess', 's.e.', place)}, at gamma {gamma:.3g}"
        return _Answer(_AT_THRESHOLD[0] <= gamma <= _AT_THRESHOLD[1], word, gamma)

    statement = "Excess risk is highest where there are as many features as rows (p = n)"
    return _judged(statement, curves, judge, "found at gamma {}", "excess")


def _means(curves: Sequence[ClaimCurve]) -> Claim | None:
    def judge(curve: ClaimCurve) -> _Answer | None:
        places = curve.places("width", "excess")
        if not places or not curve.has("s.e."):
            return None
        without = [place for place in places if not curve.is_mean[place]]
        far = [place for place in without if not _is_near(curve, place)]
        count = f"{len(places) - len(without)} of {len(places)} sizes"
        widths = ", ".join(f"{known(curve['width'], place):.0f}" for place in without[:_MOST_NAMED])
        more = ", …" if len(without) > _MOST_NAMED else ""
        word = f"means at {count}{f', medians at p = {widths}{more}' if without else ''}"
        return _Answer(not far, word, len(places) - len(without))

    low, high = _AT_THRESHOLD
    statement = (
        f"Outside gamma {low:g} to {high:g} the mean excess risk can be estimated, since no single draw decides it"
    )
    return _judged(statement, curves, judge, "means at {} sizes of a curve", "excess")


def _exact(curves: Sequence[ClaimCurve], *, num_draws: int) -> Claim | None:
    """The largest distance in standard errors, against what chance gives at so many points that share their draws."""
    z = [known(curve["z"], place) for curve in curves for place in curve.places("z")]
    if not z or num_draws < 2:
        return None
    rms, beyond, largest = math.sqrt(fmean(x**2 for x in z)), sum(abs(x) > _COUNTED for x in z), max(map(abs, z))
    # Bonferroni: it holds however the points depend on each other
    bound = float(stdtrit(num_draws - 1, 1 - _BY_CHANCE / 2 / len(z)))
    return Claim(
        statement=f"Measured means agree with the exact risk for finite n: z of {rms:.2f} rms at {len(z)} points",
        verdict=Verdict.holds if largest <= bound else Verdict.fails,
        figure="excess",
        evidence=f"Distances in standard errors have the root mean square {rms:.2f} at {len(z)} points, where chance "
        f"alone gives about 1, and more or less where points share their draws; {beyond} of them are beyond "
        f"{_COUNTED:g}. The largest is {largest:.2g}; chance alone stays below {bound:.2g} in 19 of 20 runs.",
    )


def _asymptotic(curves: Sequence[ClaimCurve], *, is_reference: bool) -> Claim | None:
    def judge(curve: ClaimCurve) -> _Answer | None:
        # theory is of means
        places = [place for place in curve.places("gamma", "excess", "theory") if curve.is_mean[place]]
        if len({known(curve["gamma"], place) for place in places}) > 1:
            low, high = _NEAR_THRESHOLD
            places = [place for place in places if not low <= known(curve["gamma"], place) <= high]
        gaps = [
            abs(known(curve["excess"], place) / known(curve["theory"], place) - 1)
            for place in places
            if known(curve["theory"], place) > 0
        ]
        if not gaps:
            return None
        largest = 100 * max(gaps)
        return _Answer(max(gaps) <= _CLOSE, f"largest distance {largest:.2g} % at {len(gaps)} sizes", largest)

    low, high = _NEAR_THRESHOLD
    theory = "The theory of Gaussian features with the same moments" if is_reference else "Random-matrix theory"
    statement = f"{theory} is within {100 * _CLOSE:.0f} % outside gamma {low:g} to {high:g}"
    return _judged(statement, curves, judge, "largest distance {} %", "excess")


def _bias(curves: Sequence[ClaimCurve]) -> Claim | None:
    def judge(curve: ClaimCurve) -> _Answer | None:
        places = [place for place in curve.places("gamma", "bias", "excess") if known(curve["gamma"], place) < 1]
        places = [place for place in places if known(curve["excess"], place) > 0]
        if not places:
            return None
        shares = [known(curve["bias"], place) / known(curve["excess"], place) for place in places]
        place = places[shares.index(max(shares))]
        bias, width = known(curve["bias"], place), known(curve["width"], place)
        word = (
            f"at most {bias:.3g} of an excess risk of {with_interval(curve, 'excess', 's.e.', place)} (p = {width:.0f})"
        )
        return _Answer(max(shares) <= _NO_BIAS, word, 100 * max(shares))

    statement = "Below p = n a head has no bias"
    return _judged(statement, curves, judge, "at most {} % of the excess risk", "bias")


def _is_near(curve: ClaimCurve, place: int) -> bool:
    gamma = curve["gamma"][place]
    return gamma is not None and _AT_THRESHOLD[0] <= gamma <= _AT_THRESHOLD[1]


def _degenerate(curves: Sequence[ClaimCurve]) -> Claim | None:
    def judge(curve: ClaimCurve) -> _Answer | None:
        places = [place for place in curve.places("width", "gamma", "excess") if known(curve["gamma"], place) < 1]
        # along another axis than the width, such as the length of the context, there is no smallest model
        if len(places) < FEWEST_BELOW or len({known(curve["width"], place) for place in places}) < len(places):
            return None
        best = min(places, key=lambda place: known(curve["excess"], place))
        smallest = min(places, key=lambda place: known(curve["width"], place))
        word = f"least at p = {known(curve['width'], best):.0f} ({with_interval(curve, 'excess', 's.e.', best)})"
        return _Answer(best == smallest, word, known(curve["width"], best))

    statement = "Below p = n the smallest model has the least excess risk (a degenerate descent)"
    return _judged(statement, curves, judge, "least at p = {}", "excess")


def _better_than_zero(curves: Sequence[ClaimCurve], *, num_draws: int) -> Claim | None:
    def judge(curve: ClaimCurve) -> _Answer | None:
        places = curve.places("total", "null")
        if not places:
            return None
        best = min(places, key=lambda place: known(curve["total"], place) - known(curve["null"], place))
        total, null = known(curve["total"], best), known(curve["null"], best)
        error = curve["s.e."][best]
        margin = clear_distance(num_draws) * error if error else 0.0
        width = known(curve["width"], best)
        spread = "" if error is None else f" ± {2 * error:.2g}"
        word = f"total risk {total:.3g}{spread} at p = {width:.0f}, of predicting zero {null:.3g}"
        return _Answer(total + margin < null, word, 100 * total / null if null else math.nan)

    statement = "At its best width a head predicts better than zero"
    return _judged(statement, curves, judge, "its total risk is {} % of that of zero", "total")


def _about_classes(curves: Sequence[ClaimCurve], *, num_draws: int) -> Iterator[Claim]:
    def judge(curve: ClaimCurve) -> _Answer | None:
        places = curve.places("width", "accuracy")
        if not places:
            return None
        best = max(places, key=lambda place: known(curve["accuracy"], place))
        width, guess = known(curve["width"], best), curve["constant accuracy"][best]
        found = f"accuracy {with_interval(curve, 'accuracy', 's.e.', best)} at p = {width:.0f}"
        if guess is None:
            return None
        z = curve["z of accuracy"][best]
        error = curve["s.e."][best]
        margin = clear_distance(num_draws) * error if error else 0.0
        is_better = z > clear_distance(num_draws) if z is not None else known(curve["accuracy"], best) - margin > guess
        beside = "" if z is None else f", z of the difference {z:.2g}"
        gain = 100 * (known(curve["accuracy"], best) - guess)
        return _Answer(is_better, f"{found}, a constant guess {guess:.3g}{beside}", gain)

    statement = "At its best width a head is right more often than the best constant guess"
    claim = _judged(statement, curves, judge, "{} percentage points above it", "classes")
    yield claim or Claim(
        statement=statement, verdict=Verdict.undecided, evidence="The table has no constant guess to compare with."
    )


def _judged(
    statement: str, curves: Sequence[ClaimCurve], judge: Callable[[ClaimCurve], _Answer | None], found: str, figure: str
) -> Claim | None:
    """A claim about curves, of which each bears it out or not; None if it can be asked of none of them.

    Args:
        statement: the claim.
        curves: of the run.
        judge: what a curve says of it.
        found: words with a place for the number of a curve, or for the range of all of them.
        figure: the quantity that a figure has to show.
    """
    judged = [(curve.label, answer) for curve in curves if (answer := judge(curve)) is not None]
    if not judged:
        return None
    bearing = sum(answer.holds for _, answer in judged)
    # what speaks against it first
    ordered = sorted(judged, key=lambda entry: entry[1].holds)
    named = [f"{label}: {answer.word}" for label, answer in ordered[:_MOST_NAMED]]
    rest = f"; {len(judged) - _MOST_NAMED} more in the table" if len(judged) > _MOST_NAMED else ""
    values = [f"{value:.3g}" for value in sorted({answer.value for _, answer in judged}) if math.isfinite(value)]
    numbers = f": {found.format(values[0] if values[0] == values[-1] else f'{values[0]} to {values[-1]}')}"
    return Claim(
        statement=f"{statement}{numbers if values else ''}",
        verdict=share_verdict(bearing, len(judged)),
        evidence=f"True of {bearing} of {len(judged)} curves. {'; '.join(named)}{rest}.",
        figure=figure,
    )
