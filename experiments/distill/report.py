"""Report of a finished run: the table, a summary, and a verdict in words."""

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from lab.core.runs.json_files import Entry
from lab.core.runs.row_store import RowStore
from lab.experiments.distill.config import DistillConfig
from lab.experiments.distill.rows import Origin, Quantity, ResultRow, Row, joined
from lab.experiments.distill.stage_graph import StageNode, students

STUDENT = "student"
_MEASURED: tuple[Quantity, ...] = ("accuracy", "kl_per_token", "kl_per_answer_token", "agreement", "relative_error")


@dataclass(frozen=True, slots=True)
class Summary:
    """A student after one of its stages, over replicates.

    Attributes:
        label: of the student.
        stage: 0 for the untrained student.
        is_last: whether this is its last stage.
        num_softmax: number of softmax attention layers.
        values: for each quantity, one number per replicate.
    """

    label: str
    stage: int
    is_last: bool
    num_softmax: int
    values: dict[Quantity, list[float]]

    def mean(self, quantity: Quantity) -> float | None:
        """The mean over replicates; None if it was not measured."""
        return fmean(self.values[quantity]) if self.values[quantity] else None

    def spread(self, quantity: Quantity) -> float | None:
        """The standard deviation over replicates; None for one."""
        return stdev(self.values[quantity]) if len(self.values[quantity]) > 1 else None


def table_rows(rows: Sequence[Row], config: DistillConfig) -> Sequence[Row]:
    """All results, by student: rows of a stage shared by several students are repeated for each of them."""
    return RowStore(_table_rows(rows, config))


def _table_rows(rows: Sequence[Row], config: DistillConfig) -> Iterator[Row]:
    places: dict[str, array[int]] = {}
    for place, row in enumerate(rows):
        if row["kind"] != "done":
            places.setdefault(row["unit"], array("q")).append(place)
    all_students = students(config) if config.stage_numbers or config.stage == "all" else []
    units = {node.key for student in all_students for node in student.path}
    for unit in places:
        if unit not in units:
            yield from (_without_unit(rows[place]) for place in places[unit])
    for student in all_students:
        for node in student.path:
            origin: Origin = {
                "model": STUDENT,
                "student": student.label,
                "replicate": student.replicate,
                "is_last": node is student.path[-1],
                "initialisation": _initialisation(node),
            }
            yield from (joined(origin, _without_unit(rows[place])) for place in places.get(node.key, ()))


def _without_unit(row: Row) -> Row:
    """A row without its unit of work, and without timings: they differ between runs that are otherwise the same."""
    plain = row.copy()
    plain.pop("unit", None)
    if plain["kind"] == "train":
        plain.pop("seconds", None)
    return plain


def _initialisation(node: StageNode) -> str:
    return node.student.initialisation.value


def accuracies(table: Sequence[Row]) -> dict[str, float]:
    """The accuracy of the teacher and the baselines, by name."""
    return {row["model"]: row["accuracy"] for row in table if row["kind"] == "result" and row["model"] != STUDENT}


def summaries(table: Sequence[Row]) -> list[Summary]:
    """Every student after each of its stages, in the order of the run."""
    groups: dict[tuple[str, int], list[ResultRow]] = {}
    for row in table:
        if row["kind"] == "result" and row["model"] == STUDENT:
            groups.setdefault((row["student"], row["stage"]), []).append(row)
    return [
        Summary(
            label,
            stage,
            rows[0]["is_last"],
            rows[0]["num_softmax"],
            {name: [value for row in rows if (value := row[name]) is not None] for name in _MEASURED},
        )
        for (label, stage), rows in groups.items()
    ]


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
    "recovered %",
    "KL/token",
    "KL/answer token",
    "agreement %",
    "layer error",
)


def summary_table(table: Sequence[Row]) -> tuple[list[str], list[list[Entry]]]:
    """Header and rows of the table, in full precision; with several students, only their last stages.

    `s.d.` is the standard deviation of the accuracy over replicates.
    """
    baselines = accuracies(table)
    lines: list[list[Entry]] = [
        ["baselines", name, 100 * value, *[None] * (len(_COLUMNS) - 3)] for name, value in baselines.items()
    ]
    found = summaries(table)
    is_one = len({summary.label for summary in found}) == 1
    for summary in found:
        if is_one or summary.is_last:
            label, after = ("student", _stage(summary.stage)) if is_one else ("students", summary.label)
            lines.append([label, after, *_numbers(summary, baselines)])
    return list(_COLUMNS), lines


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
    return [*sentences, *_progress_of_stages(table)]


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


def _numbers(summary: Summary, baselines: dict[str, float]) -> list[Entry]:
    accuracy = summary.mean("accuracy")
    assert accuracy is not None, "every result has one"
    return [
        100 * accuracy,
        _of_hundred(summary.spread("accuracy")),
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
