"""Samples that a run left out: rows while it goes on, a file that lists them, counts for table and verdict."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from lab.core.data.bad_samples import LeftOut, Reason
from lab.core.runs.atomic_files import write_atomically
from lab.core.runs.record import Run
from lab.experiments.distill.rows import BadSampleRow, LeftOutRow, Origin, Row, Step

FILE = "bad_samples.jsonl"
TRAIN, TEST = "train", "test"
_DATA = {TRAIN: "training data", TEST: "held-out data"}
_LISTED = ("split", "file", "line", "reason", "error")


class BadSamples:
    """The samples that a unit of work has left out; each is recorded once, however often it is drawn."""

    def __init__(self, record: Run[Row], origin: Origin) -> None:
        """Begin with those that an earlier attempt has recorded."""
        self._origin = origin
        rows = (row for row in record.rows if row["kind"] == "bad_sample" and row["unit"] == origin["unit"])
        self._known = set(map(_key, rows))

    def new(self, left_out: Iterable[LeftOut], split: str, step: int | None = None) -> list[BadSampleRow]:
        """Rows of the samples that are not recorded yet.

        Args:
            left_out: what was left out.
            split: of these samples.
            step: optimizer steps done; None in the evaluation after the training.
        """
        rows = []
        for each in left_out:
            step_of: Step = {} if step is None else {"step": step}
            row: BadSampleRow = {
                **self._origin,
                **step_of,
                "kind": "bad_sample",
                "split": split,
                "reason": each.reason.value,
                "file": each.place.file,
                "line": each.place.number,
                "error": each.error,
            }
            if _key(row) not in self._known:
                self._known.add(_key(row))
                rows.append(row)
        return rows


def write_list(record: Run[Row]) -> None:
    """Write bad_samples.jsonl into the folder of a run: a line for each sample that was left out, if there is one.

    Raises:
        RunError: if the disk is full, or the run was deleted.
    """
    lines = [
        json.dumps({name: value for name, value in row.items() if name in _LISTED}) for row in _distinct(record.rows)
    ]
    if lines:
        write_atomically(record.folder() / FILE, "".join(f"{line}\n" for line in lines))


def left_out_rows(rows: Iterable[Row]) -> list[LeftOutRow]:
    """How many samples a run left out for each reason; those of all its units, each counted once."""
    counts = Counter((row["split"], row["reason"]) for row in _distinct(rows))
    return [
        {"kind": "left_out", "split": split, "reason": reason.value, "samples": counts[split, reason.value]}
        for split in (TRAIN, TEST)
        for reason in Reason
        if counts[split, reason.value]
    ]


def left_out_lines(table: Sequence[Row]) -> list[tuple[str, int]]:
    """For the printed table: what was left out, in words, and how many samples."""
    return [(f"{_DATA[row['split']]}: {row['reason']}", row["samples"]) for row in table if row["kind"] == "left_out"]


def left_out_sentences(table: Sequence[Row]) -> Iterator[str]:
    """For the verdict: how many samples were left out, and where they are listed."""
    for split, data in _DATA.items():
        counts = {row["reason"]: row["samples"] for row in table if row["kind"] == "left_out" and row["split"] == split}
        if counts:
            reasons = ", ".join(f"{reason} {count:,}" for reason, count in counts.items())
            number = sum(counts.values())
            yield f"{number:,} sample{'s' * (number != 1)} of the {data} left out: {reasons}; {FILE} lists them"


def _distinct(rows: Iterable[Row]) -> Iterator[BadSampleRow]:
    known = set()
    for row in rows:
        if row["kind"] == "bad_sample" and _key(row) not in known:
            known.add(_key(row))
            yield row


def _key(row: BadSampleRow) -> tuple[str, str, int, str]:
    return row["split"], row["file"], row["line"], row["reason"]
