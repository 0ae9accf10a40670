"""Report of a finished run: a summary of its table, and a verdict in words."""

from collections.abc import Iterator, Sequence

from lab.core.runs.json_files import Entry
from lab.experiments.distill.bad_samples import left_out_lines, left_out_sentences
from lab.experiments.distill.rows import ResultRow, Row
from lab.experiments.distill.seeds import estimate, rankings
from lab.experiments.distill.summary import STUDENT, Summary, summaries


def accuracies(table: Sequence[Row]) -> dict[str, float]:
    """The accuracy of the teacher and the baselines, by name."""
    return {name: row["accuracy"] for name, row in _baselines(table).items()}


def _baselines(table: Sequence[Row]) -> dict[str, ResultRow]:
    return {row["model"]: row for row in table if row["kind"] == "result" and row["model"] != STUDENT}


def recovered(accuracy: float, baselines: dict[str, float]) -> float | None:
    """The fraction of the teacher's accuracy above chance; None if chance is unknown or the teacher is no better."""
    if baselines["teacher"] <= baselines.get("chance", 1.0):
        return None
    return (accuracy - baselines["chance"]) / (baselines["teacher"] - baselines["chance"])


_COLUMNS = (
    "student",
    "after",
    "accuracy %",
    "s.d.",
    "± 95 %",
    "recovered %",
    "KL/token",
    "KL/answer token",
    "agreement %",
    "layer error",
)


def summary_table(table: Sequence[Row]) -> tuple[list[str], list[list[Entry]]]:
    """Header and rows of the table, in full precision; with several students, only their last stages.

    `s.d.` is the standard deviation of the accuracy over replicates, `± 95 %` half the interval of its mean by
    Student's t. If samples were left out, the last lines and the last column say how many, and why.
    """
    baselines = accuracies(table)
    lines: list[list[Entry]] = [
        [
            "baselines",
            name,
            100 * row["accuracy"],
            None,
            None,
            None,
            *_nearness(row, is_teacher=name == "teacher"),
            None,
        ]
        for name, row in _baselines(table).items()
    ]
    found = summaries(table)
    is_one = len({summary.label for summary in found}) == 1
    for summary in found:
        if is_one or summary.is_last:
            label, after = ("student", _stage(summary.stage)) if is_one else ("students", summary.label)
            lines.append([label, after, *_numbers(summary, baselines)])
    left_out = left_out_lines(table)
    if not left_out:
        return list(_COLUMNS), lines
    blank: list[Entry] = [None] * (len(_COLUMNS) - 2)
    counted: list[list[Entry]] = [["left out", reason, *blank, number] for reason, number in left_out]
    return [*_COLUMNS, "samples"], [*([*line, None] for line in lines), *counted]


def headline(table: Sequence[Row]) -> str:
    """The main result in a few words."""
    last = [summary for summary in summaries(table) if summary.is_last]
    baselines = accuracies(table)
    if not last:
        return f"teacher {_percent(baselines['teacher'])} %"
    best = max(last, key=lambda summary: summary.mean("accuracy") or 0.0)
    name = f"{best.label}: " if best.label else ""
    share = recovered(best.mean("accuracy") or 0.0, baselines)
    of_teacher = "" if share is None else f", {_percent(share)} % of the teacher's above chance"
    kl = _short(best.mean("kl_per_answer_token"))
    return f"{name}{_percent(best.mean('accuracy'))} %, KL {kl} per answer token{of_teacher}"


def verdict(table: Sequence[Row]) -> list[str]:
    """The findings, in sentences."""
    baselines = accuracies(table)
    rest = [f"{name} {_percent(value)} %" for name, value in baselines.items() if name != "teacher"]
    sentences = [f"the teacher answers {_percent(baselines['teacher'])} % of the held-out questions; {', '.join(rest)}"]
    for summary in summaries(table):
        share = recovered(summary.mean("accuracy") or 0.0, baselines)
        if summary.is_last and share is not None:
            name = summary.label or "the student"
            sentences.append(
                f"{name}: {_percent(share)} % of the teacher's accuracy above chance, "
                f"{_short(summary.mean('kl_per_answer_token'))} nats per answer token from it; "
                f"{summary.num_softmax} layer{'s' * (summary.num_softmax != 1)} of softmax attention"
            )
    return [*sentences, *rankings(summaries(table)), *_progress_of_stages(table), *left_out_sentences(table)]


def _progress_of_stages(table: Sequence[Row]) -> Iterator[str]:
    """The held-out loss at the start and end of every stage of the first student."""
    first = next((row["student"] for row in table if row["kind"] == "result" and row["model"] == STUDENT), None)
    losses: dict[int, list[float]] = {}
    for row in table:
        if row["kind"] == "validation" and row.get("student") == first and row.get("replicate", 0) == 0:
            losses.setdefault(row.get("stage", 0), []).append(row["loss"])
    for stage, of_stage in losses.items():
        name = f"stage {stage}" if stage else "training"
        yield f"{name}: held-out loss {_short(of_stage[0])} to {_short(of_stage[-1])}"


def _nearness(row: ResultRow, *, is_teacher: bool) -> list[Entry]:
    """How near a baseline is to the teacher; empty for the teacher itself and for chance."""
    if is_teacher:
        return [None] * 3
    return [row.get("kl_per_token"), row.get("kl_per_answer_token"), _of_hundred(row.get("agreement"))]


def _numbers(summary: Summary, baselines: dict[str, float]) -> list[Entry]:
    accuracy = summary.mean("accuracy")
    assert accuracy is not None, "every result has one"
    return [
        100 * accuracy,
        _of_hundred(summary.spread("accuracy")),
        _of_hundred(estimate(summary.values["accuracy"]).half_width),
        _of_hundred(recovered(accuracy, baselines)),
        summary.mean("kl_per_token"),
        summary.mean("kl_per_answer_token"),
        _of_hundred(summary.mean("agreement")),
        summary.mean("relative_error"),
    ]


def _of_hundred(value: float | None) -> float | None:
    return None if value is None else 100 * value


def _stage(stage: int) -> str:
    return f"stage {stage}" if stage else "untrained"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
