"""Passing the rows of a run on to a tracker, from its metrics.jsonl: while it goes on, or afterwards.

    python -m lab.core.runs.track RUN NAME

does so until standard input ends, as the process that a run starts for `sinks=[NAME]`.
"""

import math
import os
import shutil
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Protocol

from lab.core.dotted_keys import by_dotted_key
from lab.core.errors import LabError
from lab.core.runs.atomic_files import as_run_error
from lab.core.runs.checked_lines import Findings, read
from lab.core.runs.json_files import json_object_if_there
from lab.core.runs.trackers import new_tracker

# seconds between two looks at a run that goes on
POLL_S = 1.0

_NO_WORDS = ("unit", "kind")
# of rows about single samples and files, the words that name their unit of work; the others differ from row to row
_KEYS = {
    **dict.fromkeys(("answer", "piece"), ("model", "task")),
    **dict.fromkeys(("model", "finished"), ("model",)),
    "task": ("task",),
    "choice": ("model", "task", "curve", "how"),
}
# rows that list something by file and sentence; `left_out` of the rows of a training counts them
_NO_CURVES = ("bad_sample",)


class Tracker(Protocol):
    """A program that draws curves of runs."""

    def open(self, run: Path, config: Mapping[str, object]) -> None:
        """Start from nothing.

        Args:
            run: the run's directory.
            config: its configuration, one level deep, with keys as they are typed.
        """
        ...

    def log(self, values: Mapping[str, float], step: int, unit: str) -> None:
        """Take finite numbers in, by `UNIT/NAME`, at a step of this unit of the run."""
        ...

    def close(self) -> None:
        """Write what is left."""
        ...


class Points:
    """What a tracker draws of rows: numbers by name and step, each of them once.

    A name holds the unit of work, the kind of the row if it is not a step of a training, and its words; of rows about
    single samples only those of model and task. A run that went on from a checkpoint repeats rows; they are the same
    and left out. Rows that list samples have no numbers to draw.
    """

    def __init__(self) -> None:
        self._last: dict[str, int] = {}
        self._count: Counter[str] = Counter()

    def begin_again(self) -> None:
        """The next row is the first one of a file that repeats the rows so far."""
        self._count.clear()

    def of(self, row: Mapping[str, Any]) -> tuple[dict[str, float], int, str]:
        """The new numbers of a row, their step, and the unit; rows without a step are counted."""
        unit, kind = str(row.get("unit", "")), str(row.get("kind", ""))
        if kind in _NO_CURVES:
            return {}, 0, unit
        named = _KEYS.get(kind, row.keys() - _NO_WORDS)
        words = [value for key, value in row.items() if isinstance(value, str) and key in named]
        prefix = "/".join(part for part in (unit, "" if kind == "train" else kind, *words) if part)
        given = row.get("step")
        if isinstance(given, int):
            step = given
        else:
            step, self._count[prefix] = self._count[prefix], self._count[prefix] + 1
        if step <= self._last.get(prefix, -1):
            return {}, step, unit
        self._last[prefix] = step
        numbers = {
            f"{prefix}/{key}" if prefix else key: float(value)
            for key, value in row.items()
            if isinstance(value, int | float) and not isinstance(value, bool) and key != "step" and math.isfinite(value)
        }
        return numbers, step, unit


class Reader:
    """The rows of a metrics.jsonl that grows, or is replaced by one that begins in the same way.

    Attributes:
        num_rows: read so far of this file.
        num_damaged: lines of it that are not as they were written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._inode = 0
        self._found = Findings()
        self.num_rows = 0

    @property
    def num_damaged(self) -> int:
        """See the class."""
        return len(self._found.damaged)

    def new(self, begin_again: Callable[[], None] = lambda: None) -> Iterator[dict[str, Any]]:
        """The rows since the last call; all again, after a call of `begin_again`, of a file that was replaced."""
        try:
            file = self._path.open("rb")
        except FileNotFoundError:
            return
        with file:
            there = os.fstat(file.fileno())
            if there.st_ino != self._inode or there.st_size < self._found.size:
                self._inode, self._found, self.num_rows = there.st_ino, Findings(), 0
                begin_again()
            file.seek(self._found.size)
            for row in read(file, self._found):
                self.num_rows += 1
                yield row


def follow(run: Path, tracker: Tracker, *, has_ended: Callable[[], bool], poll_s: float = POLL_S) -> Reader:
    """Pass all rows of a run on, and those that come, until it has ended.

    Args:
        run: the run's directory.
        tracker: not opened yet.
        has_ended: whether no more rows will come.
        poll_s: seconds between two looks.

    Returns:
        What counted them.

    Raises:
        RunError: if the run's config.json is damaged.
    """
    reader, points = Reader(run / "metrics.jsonl"), Points()
    config = json_object_if_there(run / "config.json", hint="put it back")
    tracker.open(run, by_dotted_key(config or {}))
    try:
        while True:
            # asked before it looks: what has ended then has written everything
            is_last = has_ended()
            for row in reader.new(points.begin_again):
                values, step, unit = points.of(row)
                if values:
                    tracker.log(values, step, unit)
            if is_last:
                return reader
            time.sleep(poll_s)
    finally:
        tracker.close()


def fresh_folder(run: Path, name: str) -> Path:
    """An empty folder for a tracker or a sink in a run's directory.

    Raises:
        RunError: if what is there cannot be removed, or the folder cannot be made.
    """
    folder = run / name
    try:
        if os.path.lexists(folder):
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
    except OSError as error:
        raise as_run_error(error, folder) from error
    return folder


def _main(run: str, name: str, stdin: IO[bytes]) -> None:
    ended = threading.Event()

    def wait() -> None:
        # the run's process closes it, or ends
        stdin.read()
        ended.set()

    threading.Thread(target=wait, daemon=True).start()
    follow(Path(run), new_tracker(name), has_ended=ended.is_set)


if __name__ == "__main__":
    try:
        _main(sys.argv[1], sys.argv[2], sys.stdin.buffer)
    except (LabError, OSError) as error:
        sys.exit(str(error))
