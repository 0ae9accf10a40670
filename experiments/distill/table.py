"""The table of a finished run, from the rows that its units of work have recorded."""

from array import array
from collections.abc import Iterator, Sequence

from lab.core.runs.row_store import RowStore
from lab.experiments.distill.bad_samples import left_out_rows
from lab.experiments.distill.config import DistillConfig
from lab.experiments.distill.rows import Origin, Row, joined
from lab.experiments.distill.stage_graph import StageNode, students
from lab.experiments.distill.summary import STUDENT


def table_rows(rows: Sequence[Row], config: DistillConfig) -> Sequence[Row]:
    """All results, by student: rows of a stage shared by several students are repeated for each of them."""
    return RowStore(_table_rows(rows, config))


def _table_rows(rows: Sequence[Row], config: DistillConfig) -> Iterator[Row]:
    places: dict[str, array[int]] = {}
    for place, row in enumerate(rows):
        if row["kind"] not in ("done", "bad_sample"):
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
    yield from left_out_rows(rows)


def _without_unit(row: Row) -> Row:
    """A row without its unit of work, and without timings: they differ between runs that are otherwise the same."""
    plain = row.copy()
    plain.pop("unit", None)
    if plain["kind"] == "train":
        plain.pop("seconds", None)
    return plain


def _initialisation(node: StageNode) -> str:
    return node.student.initialisation.value
