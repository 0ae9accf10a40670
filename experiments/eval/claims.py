"""What a finished evaluation bears out: whether models keep the teacher's skill."""

from collections.abc import Iterator, Sequence

from lab.core.errors import RunError
from lab.core.report.content import Claim, Findings, Verdict
from lab.core.report.recorded import RecordedRun
from lab.experiments.eval.recorded import load
from lab.experiments.eval.rows import ScoreRow

# of the teacher's skill above chance, in per cent: a model that has as much keeps it
_KEPT = 90.0


def findings(run: RecordedRun) -> Findings:
    """A claim for each model and task with a teacher above chance."""
    try:
        rows = load(run.directory)
    except RunError as error:
        return Findings(faults=[str(error)])
    keys = ("resamples", "confidence", "limit", "max_new_tokens", "device")
    design = {key: str(run.config[key]) for key in keys if run.config.get(key) is not None}
    figure = "scores" if any(path.stem == "scores" for path in run.figures) else ""
    return Findings(claims=list(_claims(rows, figure)), design=design)


def _claims(rows: Sequence[ScoreRow], figure: str) -> Iterator[Claim]:
    for row in rows:
        if row["kind"] != "recovered" or row["low"] is None or row["high"] is None:
            continue
        is_sure = row["low"] >= _KEPT or row["high"] < _KEPT
        holds = Verdict.holds if row["low"] >= _KEPT else Verdict.fails
        yield Claim(
            statement=f"On {row['task']}, {row['model']} keeps {_KEPT:g} % of the teacher's skill above chance",
            verdict=holds if is_sure else Verdict.undecided,
            evidence=f"{row['value']:.1f} %, interval {row['low']:.1f} to {row['high']:.1f} ({row['score']})",
            figure=figure,
        )
