"""The table of theory lines of a sweep: dense enough to be drawn as straight segments, averaged over problems."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import cast

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from lab.core.runs.parquet import read_table, write_columns
from lab.experiments.hmm_risk.config import LinearGaussianConfig
from lab.experiments.hmm_risk.grid.cell import Cell
from lab.experiments.hmm_risk.rows import Row
from lab.experiments.hmm_risk.theory_lines.interpolation import COLUMNS, Known, drawn_widths, known_of
from lab.experiments.hmm_risk.theory_lines.nodes import Row as TheoryRow

_NAME = "lines.parquet"

Key = tuple[str, str]
LineColumns = dict[str, Float64[ndarray, " j"]]


def theory_lines(rows: Iterable[Row], cells: Sequence[Cell]) -> dict[Key, LineColumns]:
    """The line of every cell and ridge strength that has one, by label and ridge.

    Args:
        rows: as recorded.
        cells: of the sweep.
    """
    nodes: dict[tuple[int, str], dict[int, list[TheoryRow]]] = {}
    for row in rows:
        if row["kind"] != "measured":
            of_problem = nodes.setdefault((row["cell"], row["ridge"]), {})
            of_problem.setdefault(row["problem"], []).append(cast("TheoryRow", row))
    lines = {}
    for (index, ridge), problems in nodes.items():
        cell = cells[index]
        # theory at the dots alone makes no line, nor does a mean over problems of which some have no more
        if any(all(row["kind"] == "theory" for row in found) for found in problems.values()):
            continue
        known = [
            known_of(found, num_train=cell.num_train, has_pole=ridge == "0", is_dependent=cell.tokens_per_sequence > 1)
            for found in problems.values()
        ]
        lines[cell.label, ridge] = _averaged(known, cell)
    return lines


def step_of(cell: Cell) -> int:
    """Widths of the cell's model are multiples of it."""
    assert isinstance(cell.hmm, LinearGaussianConfig), "only linear-Gaussian problems have lines"
    return cell.hmm.features_per_step


def _averaged(known: Sequence[Known], cell: Cell) -> LineColumns:
    every_width = sorted({width for one in known for width in one.widths.tolist()})
    widths = drawn_widths(every_width, pole=cell.num_train if known[0].has_pole else None, step=step_of(cell))
    found = [one.at(widths) for one in known]
    columns = {name: np.mean([line[name] for line in found], axis=0) for name in COLUMNS if name in found[0]}
    return {"gamma": widths / cell.num_train, "width": widths.astype(np.float64), **columns}


def write_lines(directory: Path, lines: Mapping[str, LineColumns]) -> None:
    """Write the lines, by the label of their curve, as lines.parquet; nothing if there are none.

    Raises:
        RunError: if the disk is full or the folder cannot be written.
    """
    if not lines:
        return
    names = list(next(iter(lines.values())))
    columns = {name: np.concatenate([line[name] for line in lines.values()]) for name in names}
    labels = [label for label, line in lines.items() for _ in range(line["gamma"].size)]
    write_columns(directory / _NAME, {"curve": labels, **{name: block.tolist() for name, block in columns.items()}})


def read_lines(directory: Path) -> dict[str, LineColumns]:
    """The lines of a recorded run, by the label of their curve; none if it has none.

    Raises:
        RunError: if their table is damaged.
    """
    if not (directory / _NAME).exists():
        return {}
    table = read_table(directory, _NAME)
    labels = np.array(table.column("curve").to_pylist(), dtype=object)
    columns = {name: table.column(name).to_numpy() for name in table.column_names if name != "curve"}
    return {
        str(label): {name: block[labels == label] for name, block in columns.items()}
        for label in dict.fromkeys(labels.tolist())
    }
