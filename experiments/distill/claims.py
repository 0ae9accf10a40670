"""What a finished distillation bears out of the claims about its students, with learning curves and errors by layer."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any, cast

from lab.core.errors import RunError
from lab.core.report.content import Claim, Findings, HeatMap, Picture, Verdict, share_verdict
from lab.core.report.recorded import RecordedRun
from lab.experiments.distill.report import accuracies, recovered
from lab.experiments.distill.rows import Row
from lab.experiments.distill.seeds import difference
from lab.experiments.distill.summary import STUDENT, Summary, summaries

# drawn from the table, in addition to the figures of the run
LEARNING_CURVES = "learning_curves"

# of the teacher's accuracy above chance: a student that has as much keeps it
_KEPT = 0.9

_STAGES = ("untrained", "stage 1", "stage 2", "stage 3")

_Rows = Sequence[dict[str, Any]]


def findings(run: RecordedRun) -> Findings:
    """Claims, learning curves, and a map of errors by layer and stage for each student."""
    try:
        rows = run.table_rows(kind=["result", "layer", "train", "validation"])
    except RunError as error:
        return Findings(faults=[str(error)])
    # the columns of each kind of row are there, as they were written
    table = cast("Sequence[Row]", [row for row in rows if row["kind"] == "result"])
    found = summaries(table)
    figures = [path.stem for path in run.figures]
    claims = [
        *_with_figure(_kept(found, accuracies(table)), figures, ("students", "accuracy", "trade_off")),
        *_with_figure(_closer(rows), figures, ("layer_error", LEARNING_CURVES)),
        *_with_figure(_different(found), figures, ("trade_off", "students")),
    ]
    keys = {"replicates": "replicates", "stages": "stages", "device": "device"}
    return Findings(
        claims=claims,
        pictures=_curves(rows),
        tables=list(_maps(rows)),
        design={name: str(run.config[key]) for key, name in keys.items() if run.config.get(key) is not None},
    )


def _with_figure(claims: Iterator[Claim], figures: Sequence[str], wanted: Sequence[str]) -> Iterator[Claim]:
    """Claims with the first of some figures that is there."""
    figure = next((name for name in wanted if name in (*figures, LEARNING_CURVES)), "")
    return (replace(claim, figure=figure) for claim in claims)


def _kept(found: Sequence[Summary], baselines: dict[str, float]) -> Iterator[Claim]:
    last = [summary for summary in found if summary.is_last]
    if not last or "teacher" not in baselines:
        return
    shares = [(summary, recovered(summary.mean("accuracy") or 0.0, baselines)) for summary in last]
    known = [(summary, share) for summary, share in shares if share is not None]
    if not known:
        closest = min(last, key=lambda summary: summary.mean("kl_per_token") or float("inf"))
        yield Claim(
            statement="A student predicts like its teacher",
            verdict=Verdict.undecided,
            evidence=f"{_name(closest)}: {closest.mean('kl_per_token') or 0.0:.3g} nats per token from it; there is no "
            "accuracy to compare, since chance is unknown or the teacher is no better.",
        )
        return
    best, share = max(known, key=lambda pair: pair[1])
    keeping = sum(share >= _KEPT for _, share in known)
    yield Claim(
        statement=f"Students keep {100 * _KEPT:.0f} % or more of their teacher's accuracy above chance",
        verdict=share_verdict(keeping, len(known)),
        evidence=f"{_name(best)} keeps {100 * share:.1f} %: right in {_percent(best)}, the teacher in "
        f"{100 * baselines['teacher']:.1f} %, chance in {100 * baselines['chance']:.1f} %. "
        f"{keeping} of {len(known)} students keep {100 * _KEPT:.0f} %.",
    )


def _closer(rows: _Rows) -> Iterator[Claim]:
    """Stages 1 and 2 train layer by layer on the teacher's outputs: their loss is this error."""
    bearing, total, worst = 0, 0, ("", 0.0)
    for student, errors in _layer_errors(rows).items():
        for layer, by_stage in errors.items():
            local = [by_stage[stage] for stage in sorted(by_stage) if stage <= 2]
            if len(local) > 1:
                total += 1
                bearing += local[-1] < local[0]
                ratio = local[-1] / local[0] if local[0] else 1.0
                worst = max(worst, (f"{student}, {layer}" if student else layer, ratio), key=lambda entry: entry[1])
    if total:
        yield Claim(
            statement="Stages 1 and 2 bring every layer closer to the teacher's",
            verdict=share_verdict(bearing, total),
            evidence=f"The relative error falls in {bearing} of {total} layers; least in {worst[0]}, to "
            f"{100 * worst[1]:.0f} % of what it was.",
        )


def _different(found: Sequence[Summary]) -> Iterator[Claim]:
    last = [summary for summary in found if summary.is_last and len(summary.values["accuracy"]) > 1]
    if len(last) < 2:
        return
    ordered = sorted(last, key=lambda summary: summary.mean("accuracy") or 0.0)
    first, second = ordered[-1], ordered[-2]
    count = len(first.values["accuracy"])
    if len(second.values["accuracy"]) != count:
        return
    gap = difference(first, second, "accuracy")
    yield Claim(
        statement=f"{_name(first)} is the best of {len(last)} students beyond what seeds explain",
        verdict=Verdict.holds if gap.excludes_zero else Verdict.undecided,
        evidence=f"Right in {_percent(first)}; next is {_name(second)} in {_percent(second)}: a difference of "
        f"{100 * gap.mean:.2f} ± {100 * (gap.half_width or 0.0):.2f} points (95 %, paired over {count} seeds).",
    )


def _percent(summary: Summary) -> str:
    spread = summary.spread("accuracy")
    mean = f"{100 * (summary.mean('accuracy') or 0.0):.1f}"
    count = len(summary.values["accuracy"])
    return f"{mean} %" if spread is None else f"{mean} ± {100 * spread:.1f} % (standard deviation of {count} seeds)"


def _name(summary: Summary) -> str:
    return summary.label or "the student"


def _layer_errors(rows: _Rows) -> dict[str, dict[str, dict[int, float]]]:
    """The relative error of each student's layers after each stage, the mean over replicates."""
    found: dict[str, dict[str, dict[int, list[float]]]] = {}
    for row in rows:
        if row["kind"] == "layer" and row["model"] == STUDENT and row["relative_error"] is not None:
            of_layer = found.setdefault(row["student"], {}).setdefault(row["name"], {})
            of_layer.setdefault(row["stage"], []).append(row["relative_error"])
    return {
        student: {layer: {stage: fmean(values) for stage, values in by_stage.items()} for layer, by_stage in of.items()}
        for student, of in found.items()
    }


def _maps(rows: _Rows) -> Iterator[HeatMap]:
    errors = _layer_errors(rows)
    stages = sorted({stage for of in errors.values() for by_stage in of.values() for stage in by_stage})
    if stages:
        yield HeatMap(
            title="Error of each layer after each stage",
            note="||student - teacher|| / ||teacher|| of the head outputs on the teacher's inputs and held-out data, "
            "the mean over replicates. Without a number the layer is the teacher's, or gives nothing but zeros "
            "there, or the stage is left out.",
            columns=["student", "layer", *(_STAGES[stage] for stage in stages)],
            rows=[
                [student or "the student", layer, *(by_stage.get(stage) for stage in stages)]
                for student, of in errors.items()
                for layer, by_stage in of.items()
            ],
        )


def _curves(rows: _Rows) -> list[Picture]:
    from lab.experiments.distill.learning_curves import learning_curves  # noqa: PLC0415 - matplotlib

    picture = learning_curves(LEARNING_CURVES, [row for row in rows if row["kind"] in ("train", "validation")])
    return [] if picture is None else [picture]
