"""What a finished probe bears out: whether the theory holds on these rows, and how good choices from it are."""

import math
from collections.abc import Iterator

import numpy as np

from lab.core.errors import RunError
from lab.core.report.content import Claim, Findings, Verdict
from lab.core.report.recorded import RecordedRun
from lab.experiments.probe.recorded import load
from lab.experiments.probe.results import NEAR, Results


def findings(run: RecordedRun) -> Findings:
    """Claims for each curve and for the choices."""
    try:
        results = Results.of(load(run.directory))
    except RunError as error:
        return Findings(faults=[str(error)])
    keys = ("draws", "num_train", "rows_per_context", "basis", "num_contexts", "seed")
    design = {key: str(run.config[key]) for key in keys if run.config.get(key) is not None}
    figure = run.figures[0].stem if run.figures else ""
    return Findings(claims=[*_lines(results, figure), *_choices(results, figure)], design=design)


def _lines(results: Results, figure: str) -> Iterator[Claim]:
    for curve in results.curves:
        away = [p for p in results.points if p.curve == curve["curve"] and p.is_away and p.ridge == 0]
        # where there are as many directions as rows, there is no line
        away = [p for p in away if not math.isnan(p.gap("elliptical"))]
        if not away:
            continue
        gaps = [point.gap("elliptical") for point in away]
        worst = max(gaps, key=abs)
        near = sum(abs(gap) <= NEAR for gap in gaps)
        beyond = sum(point.is_beyond("elliptical", NEAR) for point in away)
        verdict = Verdict.holds if near == len(gaps) else Verdict.partly if near else Verdict.fails
        yield Claim(
            statement=f"{curve['curve'] or 'These rows'}: the elliptical theory predicts the minimum-norm head within "
            f"{NEAR:g} % outside gamma 0.8 to 1.25",
            verdict=verdict,
            evidence=f"{near} of {len(gaps)} points within, {beyond} beyond with all of their interval; measured above "
            f"the line by {min(gaps):.1f} to {max(gaps):.1f} %, at most {worst:+.1f} %",
            figure=figure,
        )


def _choices(results: Results, figure: str) -> Iterator[Claim]:
    for how in dict.fromkeys(choice.how for choice in results.choices):
        costs = np.concatenate([choice.costs for choice in results.choices if choice.how == how])
        middle = float(np.median(costs))
        yield Claim(
            statement=f"Width and ridge chosen by {how.replace('_', ' ')} of training rows cost at most {NEAR:g} % "
            "(median)",
            verdict=Verdict.holds if middle <= NEAR else Verdict.fails,
            evidence=f"median {middle:.2f} % above the best in hindsight over {costs.size} draws",
            figure=figure,
        )
