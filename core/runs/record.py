"""Record of a run in one directory, from which it can be resumed.

config.json        the resolved configuration; a run can only be resumed with the same one
overrides.json     the overrides that were typed, for resume=
provenance.json    commit, versions, machine; source.patch next to it holds uncommitted changes
status.json        running, finished, failed or interrupted, and since when
metrics.jsonl      every result as it is produced, one object per line; append-only while running
table.parquet      the results, sorted and typed, once complete
summary.json       the table and sentences printed at the end
figures/           PDF, PNG, and the plotted numbers
"""

import fcntl
import json
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import IO, Generic, Self, TypeVar

from lab.core.errors import RunError
from lab.core.runs.atomic_files import as_run_error, write_atomically
from lab.core.runs.find import SCHEMA_VERSION, refuse_other_version
from lab.core.runs.json_files import read_json_object
from lab.core.runs.signals import EndSignals
from lab.core.runs.sink import Sinks

# the rows of a study, each a TypedDict or another mapping with the column's name as key
Row = TypeVar("Row", bound=Mapping[str, object])

# Keys that do not affect any recorded number: a run may be resumed with other values of them.
INDIFFERENT_KEYS = frozenset({"workers", "threads", "loader", "sinks"})

_HINT = "start a new run without resume"


class Run(Generic[Row]):
    """An open run directory, locked by this process until the context exits; `Run[Row]` records rows of that type.

    Attributes:
        directory: where everything is written.
        rows: rows recorded by earlier attempts, in order.
    """

    def __init__(
        self,
        directory: Path,
        config: Mapping[str, object],
        overrides: Sequence[str],
        provenance: Mapping[str, object],
        patch: str,
        sinks: Sequence[str] = (),
    ) -> None:
        """Start a run, or open an existing one.

        Args:
            directory: the run's directory.
            config: the resolved configuration; an existing run must have the same one, except for `INDIFFERENT_KEYS`.
            overrides: the overrides that were typed, for resume=.
            provenance: of this process.
            patch: uncommitted changes of the source, empty if there are none.
            sinks: names of the sinks that also receive every row.

        Raises:
            RunError: if the directory cannot be written, is open in another process, is damaged, or belongs to a
                different configuration or another version of lab.
        """
        self.directory = directory
        self._metrics = directory / "metrics.jsonl"
        self._status: dict[str, str | int] = {"schema_version": SCHEMA_VERSION, "started": _now()}
        self._sinks = Sinks(sinks)
        self._signals = EndSignals(directory)
        self._lock = _lock(directory)
        try:
            self._open(deciding(config), overrides, provenance, patch)
        except BaseException:
            self._lock.close()
            raise

    def _open(
        self, config: Mapping[str, object], overrides: Sequence[str], provenance: Mapping[str, object], patch: str
    ) -> None:
        path = self.directory / "config.json"
        is_begun = path.exists() or self._metrics.exists()
        if is_begun:
            refuse_other_version(self.directory)
            _refuse_other_config(path, config)
            status = read_json_object(self.directory / "status.json", hint=_HINT)
            self._status["started"] = status.get("started", _now())
        self.rows = self._recover()
        if not is_begun:
            write_atomically(self.directory / "overrides.json", json.dumps(list(overrides)) + "\n")
        write_atomically(self.directory / "provenance.json", _dump(provenance))
        if patch:
            write_atomically(self.directory / "source.patch", patch)
        self._write_status("running")
        # written last: a run killed before this point starts over
        if not is_begun:
            write_atomically(path, _dump(config))

    def __enter__(self) -> Self:
        self._signals.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self._sinks.close()
            if kind is None:
                self._write_status("finished")
            # whoever requeues a job, as submitit does, may end the process
            elif issubclass(kind, KeyboardInterrupt | SystemExit):
                self._write_status("interrupted")
            else:
                self._write_status(
                    "failed", error=f"{kind.__name__}: {str(error).splitlines()[0] if str(error) else ''}"
                )
        except RunError:
            # a full disk already ends the run with its own error
            if kind is None:
                raise
        finally:
            self._lock.close()
            self._signals.__exit__(kind, error, traceback)

    def log(self, rows: Sequence[Row]) -> None:
        """Append rows to metrics.jsonl in one write; infinity and NaN in the form that Python's json and pandas read.

        Raises:
            RunError: if the disk is full.
        """
        lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
        try:
            with open(self._metrics, "ab", buffering=0) as file:
                written = file.write(lines)
                if written != len(lines):
                    file.write(lines[written:])
        except OSError as error:
            raise as_run_error(error, self._metrics) from error
        self._sinks.pass_on(self.directory, self.rows, rows)
        self.rows += rows

    def keep(self, rows: Sequence[Row]) -> None:
        """Keep only these recorded rows; the rest came from an interrupted work unit."""
        if len(rows) != len(self.rows):
            write_atomically(self._metrics, "".join(json.dumps(row) + "\n" for row in rows))
            self.rows = list(rows)

    def save_summary(self, columns: Sequence[str], rows: Sequence[Sequence[str]], verdict: Sequence[str]) -> None:
        """Save the final table and sentences, for `lab show`."""
        summary = {"columns": list(columns), "rows": [list(row) for row in rows], "verdict": list(verdict)}
        write_atomically(self.directory / "summary.json", _dump(summary))

    def set_headline(self, title: str, headline: str) -> None:
        """Set the title and the main result in a few words, for `lab runs`."""
        self._status |= {"title": title, "headline": headline}

    def _recover(self) -> list[Row]:
        """Rows on disk; a last line cut off by a kill is dropped."""
        if not self._metrics.exists():
            return []
        lines = self._metrics.read_bytes().split(b"\n")
        torn = lines.pop() != b""
        rows: list[Row] = []
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line)
            except ValueError:
                row = None
            # its keys are those of the study: run format and configuration were compared before
            is_row = isinstance(row, dict)
            if not is_row:
                raise RunError(
                    f"{self._metrics} is damaged in line {number}; delete that line, or start a new run without resume"
                )
            rows.append(row)
        if torn:
            write_atomically(self._metrics, b"\n".join([*lines, b""]))
        return rows

    def _write_status(self, status: str, **more: str) -> None:
        self._status |= {"status": status, "updated": _now(), "process": os.getpid()}
        write_atomically(self.directory / "status.json", _dump({**self._status, **more}))


def deciding(config: Mapping[str, object]) -> dict[str, object]:
    """The keys of a configuration that affect the results."""
    return {key: value for key, value in config.items() if key not in INDIFFERENT_KEYS}


def _lock(directory: Path) -> IO[str]:
    path = directory / ".lock"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        file = open(path, "a")  # noqa: SIM115  (held open until the run is left)
    except OSError as error:
        raise as_run_error(error, path) from error
    try:
        # the kernel releases the lock when the process ends, however it ends
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise RunError(f"{directory} is open in another process; wait for it, or start a new run") from error
    return file


def _refuse_other_config(path: Path, config: Mapping[str, object]) -> None:
    known, new = _flat(read_json_object(path, hint=_HINT)), _flat(json.loads(_dump(config)))
    for key in sorted(known.keys() | new.keys()):
        old_value, new_value = known.get(key, "absent"), new.get(key, "absent")
        if old_value != new_value:
            raise RunError(
                f"{path.parent} holds a run with {key}={old_value}, not {new_value}; keep that value or start a new run"
            )


def _flat(tree: object, prefix: str = "") -> dict[str, object]:
    if not isinstance(tree, dict):
        return {prefix: tree}
    return {
        key: value
        for name, part in tree.items()
        for key, value in _flat(part, f"{prefix}{'.' * bool(prefix)}{name}").items()
    }


def _dump(content: Mapping[str, object]) -> str:
    return json.dumps(content, indent=2, default=str) + "\n"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
