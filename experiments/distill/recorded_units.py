"""Which units of a run are done, and what a checkpoint knows of the rows before it: none of them may be lost unseen."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from lab.core.errors import RunError
from lab.core.runs.atomic_files import remove_partial_folders
from lab.core.runs.checked_lines import tally
from lab.core.runs.record import Run
from lab.core.streams import say
from lab.core.train.digests import newest_whole, read_meta
from lab.core.train.state import checkpoints
from lab.experiments.distill.rows import Row


class CountedRows(TypedDict):
    """The rows of a unit's training, up to a checkpoint.

    Attributes:
        num_rows: how many.
        rows_crc32: their checksum.
    """

    num_rows: int
    rows_crc32: int


@dataclass(slots=True)
class Counter:
    """Counts the rows of a unit's training; times are left out, so that checkpoints of equal trainings are equal."""

    num_rows: int = 0
    crc: int = 0

    def add(self, row: Row) -> None:
        """Count a row."""
        self.num_rows += 1
        self.crc = tally([{name: value for name, value in row.items() if name != "seconds"}], self.crc)

    @property
    def counted(self) -> CountedRows:
        """As a checkpoint holds it."""
        return {"num_rows": self.num_rows, "rows_crc32": self.crc}


def keep_what_counts(record: Run[Row], folders: Mapping[str, Path]) -> set[str]:
    """Keep the rows of finished units, and those of an interrupted one up to its newest checkpoint.

    Args:
        record: the run.
        folders: of the checkpoints, by unit.

    Returns:
        The finished units.

    Raises:
        RunError: if rows are missing that a checkpoint counts on: without training again nobody can write them.
        CheckpointError: if a unit has checkpoints, and none of them is whole.
    """
    counts: dict[str, int] = {}
    complete: set[str] = set()
    for row in record.rows:
        if row["kind"] != "done":
            counts[row["unit"]] = counts.get(row["unit"], 0) + 1
        elif row["num_rows"] == counts.get(row["unit"], 0):
            complete.add(row["unit"])
    newest = {unit: _newest(folder) for unit, folder in folders.items()}
    _refuse_lost(record, newest)
    steps = {unit: int(read_meta(path)["step"]) for unit, path in newest.items() if path is not None}

    def is_kept(row: Row) -> bool:
        if row["unit"] in complete:
            return True
        return _step(row) <= steps.get(row["unit"], -1)

    record.keep(is_kept)
    if record.damage is not None:
        say(f"{record.damage}: what is missing is computed again")
    return complete


def counter_of(record: Run[Row], unit: str) -> Counter:
    """A counter that has counted the rows of a unit's training so far."""
    counter = Counter()
    for row in record.rows:
        if row["unit"] == unit and _step(row) < math.inf:
            counter.add(row)
    return counter


def _refuse_lost(record: Run[Row], newest: Mapping[str, Path | None]) -> None:
    metas = {unit: read_meta(path) for unit, path in newest.items() if path is not None}
    counters = {unit: Counter() for unit in metas}
    for row in record.rows:
        unit = row["unit"]
        if unit in metas and _step(row) <= metas[unit]["step"]:
            counters[unit].add(row)
    lost = [unit for unit, meta in metas.items() if not counters[unit].counted.items() <= meta.items()]
    if not lost:
        return
    unit = lost[0]
    path, found = newest[unit], counters[unit].num_rows
    assert path is not None, "it has a meta.json"
    wanted = metas[unit].get("num_rows")
    what = "other rows than were written" if found == wanted else f"{found} rows of its training, not {wanted}"
    folders = ", ".join(sorted({str(each.parent) for other in lost if (each := newest[other]) is not None}))
    file = record.directory / "metrics.jsonl"
    raise RunError(
        f"{file} is damaged: {path} counts on it, and it holds {what}; put the file back from a copy, or remove "
        f"{folders} to train that again"
    )


def _newest(folder: Path) -> Path | None:
    remove_partial_folders(folder)
    return newest_whole(checkpoints(folder))


def _step(row: Row) -> float:
    """The optimizer step that a row of a training follows; infinity for rows after it."""
    if row["kind"] == "train" or row["kind"] == "validation":
        return row["step"]
    return row.get("step", math.inf) if row["kind"] == "bad_sample" else math.inf
