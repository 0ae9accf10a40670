"""Record of a run in one directory, from which it can be resumed.

config.json        the resolved configuration; a run can only be resumed with the same one, or with more draws
overrides.json     the overrides that were typed, for resume=; of the last attempt
provenance.json    commit, versions, machine of this attempt and of the earlier ones; uncommitted changes are next to it
status.json        running, finished, failed or interrupted, and since when; only for the reader
metrics.jsonl      every result as it is produced, one object per line, under a checksum; append-only while running
table.parquet      the results, sorted and typed, once complete
summary.json       the table and sentences printed at the end
bad_samples.jsonl  samples of the data that were left out, if any: file, line, reason
stages.json        of a training: what each stage went on from, what it trains, and its loss at the start
predictions/       answers to benchmarks, if any, in VLMEvalKit's layout
SHA256SUMS         digests of all these but metrics.jsonl, compared when they are read; absent while running
figures/           PDF, PNG, and the plotted numbers
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, NamedTuple, Self, TypeVar

from lab.core.dotted_keys import by_dotted_key
from lab.core.errors import RunError
from lab.core.runs.atomic_files import as_run_error, make_folder, remove_partial_files, write_atomically
from lab.core.runs.attempts import PROVENANCE, ResumeOn, patch_name, refuse_difference, with_earlier
from lab.core.runs.find import SCHEMA_VERSION, refuse_other_version
from lab.core.runs.folder_lock import locked
from lab.core.runs.json_files import Entry, finite, json_object_or_none, read_json_object
from lab.core.runs.metrics_file import MetricsFile
from lab.core.runs.row_store import RowStore
from lab.core.runs.signals import EndSignals
from lab.core.runs.sink import Sinks
from lab.core.runs.sums import SUMS, sums_of
from lab.core.streams import say

# the rows of a study, each a TypedDict or another mapping with the column's name as key
Row = TypeVar("Row", bound=Mapping[str, object])

# Keys that do not affect any recorded number: a run may be resumed with other values of them.
INDIFFERENT_KEYS = frozenset({"workers", "threads", "loader", "loader_processes", "parallel", "sinks", "resume_on"})

_HINT = "start a new run without resume"
# what readers compare; a line of metrics.jsonl has a checksum
_WITH_DIGEST = (
    *("config.json", "overrides.json", "provenance.json", "status.json", "summary.json"),
    *("table.parquet", "lines.parquet", "bad_samples.jsonl", "stages.json"),
)


# of models to questions, for other programs
_ANSWERS = "predictions/*/*.tsv"


class Extension(NamedTuple):
    """Keys in which a run that is resumed may differ from what it was.

    Attributes:
        grows: numbers of which more is more work, and leaves what is recorded as it is.
        free: keys that are read at the end only, such as the names of figures.
    """

    grows: frozenset[str] = frozenset()
    free: frozenset[str] = frozenset()

    def refuses(self, key: str, old: object, new: object) -> bool:
        """Whether a run with the value `old` of a key cannot go on with `new`."""
        if key.partition(".")[0] in self.free:
            return False
        return key not in self.grows or not (isinstance(old, int) and isinstance(new, int) and new > old)


_NONE = Extension()


class Run(Generic[Row]):
    """An open run directory, locked by this process until the context exits; `Run[Row]` records rows of that type.

    Attributes:
        directory: where everything is written.
        damage: which lines of metrics.jsonl were damaged since, or how many are gone, in words; None if none is. Their
            rows are missing.
    """

    def __init__(
        self,
        directory: Path,
        config: Mapping[str, object],
        overrides: Sequence[str],
        provenance: Mapping[str, object],
        patch: bytes,
        sinks: Sequence[str] = (),
        extension: Extension = _NONE,
    ) -> None:
        """Start a run, or open an existing one.

        Args:
            directory: the run's directory.
            config: the resolved configuration; an existing run must have the same one, except for `INDIFFERENT_KEYS`
                and the keys of `extension`. Its key `resume_on` says whether an attempt may compute with something
                else than the one before.
            overrides: the overrides that were typed, for resume=.
            provenance: of this process.
            patch: uncommitted changes of the source, empty if there are none.
            sinks: names of the sinks that also receive every row.
            extension: keys that may differ from those of an existing run; config.json and overrides.json then have the
                new values.

        Raises:
            RunError: if the directory cannot be written, is open in another process, is damaged, or belongs to a
                different configuration, another version of lab, or what computes with other last digits.
        """
        self.directory = directory
        self._extension = extension
        self._status: dict[str, str | int] = {"schema_version": SCHEMA_VERSION, "started": _now()}
        self._sinks = Sinks(sinks)
        self._signals = EndSignals(directory)
        self._lock = locked(directory)
        self._metrics: MetricsFile[Row] | None = None
        try:
            self._open(deciding(config), overrides, provenance, patch, str(config.get("resume_on", ResumeOn.same)))
        except BaseException:
            self._close()
            raise

    def _open(
        self,
        config: Mapping[str, object],
        overrides: Sequence[str],
        provenance: Mapping[str, object],
        patch: bytes,
        resume_on: str,
    ) -> None:
        path, metrics = self.directory / "config.json", self.directory / "metrics.jsonl"
        is_begun = path.exists() or (metrics.exists() and metrics.stat().st_size > 0)
        is_other = True
        # it is made before config.json
        is_gone = is_begun and not metrics.exists()
        before: Mapping[str, Any] = {}
        if is_begun:
            refuse_other_version(self.directory)
            is_other = self._refuse_other_config(path, config)
            refuse_difference(self.directory, provenance, resume_on)
            provenance = with_earlier(self.directory, provenance, resume_on)
            before = self._take_start()
        # an attempt may have been killed before it had begun; others' runs may be below such a folder
        remove_partial_files(self.directory, below=is_begun)
        self._metrics = MetricsFile(metrics)
        self.damage = self._metrics.damage() or self._metrics.loss(before.get("rows"), is_gone=is_gone)
        self._metrics.refuse_other(before.get("rows"), before.get("crc32"))
        # what is written from here on is not what it lists
        try:
            (self.directory / SUMS).unlink(missing_ok=True)
        except OSError as error:
            raise as_run_error(error, self.directory / SUMS) from error
        # before config.json: with it alone, resume= would come with fewer draws than are recorded
        if is_other:
            self._write("overrides.json", json.dumps(list(overrides)) + "\n")
        name = patch_name(self.directory, provenance, patch)
        if name is not None:
            self._write(name, patch)
        self._write(PROVENANCE, _dump({**provenance, "patch": name}))
        self._write_status("running")
        # written last: a run killed before this point starts over
        if is_other:
            self._write("config.json", _dump(config))
        self._config = _dump(config)

    def _refuse_other_config(self, path: Path, config: Mapping[str, object]) -> bool:
        """Whether a configuration differs from the recorded one, in keys in which it may."""
        known = by_dotted_key(read_json_object(path, hint=_HINT))
        new = by_dotted_key(json.loads(_dump(config)))
        is_other = False
        for key in sorted(known.keys() | new.keys()):
            old_value, new_value = known.get(key, "absent"), new.get(key, "absent")
            if old_value == new_value:
                continue
            is_other = True
            if self._extension.refuses(key, old_value, new_value):
                is_less = key in self._extension.grows
                hint = f"give {old_value} or more" if is_less else "keep that value or start a new run"
                raise RunError(f"{path.parent} holds a run with {key}={old_value}, not {new_value}; {hint}")
        return is_other

    def _take_start(self) -> Mapping[str, Any]:
        """Take over when the run began, for the reader, from the status of the attempt before, which is returned.

        One that cannot be read stops nobody.
        """
        status = json_object_or_none(self.directory / "status.json")
        if status is None:
            say(f"{self.directory / 'status.json'} is missing or damaged and written anew; the run goes on")
        self._status["started"] = str((status or {}).get("started", _now()))
        return status or {}

    @property
    def rows(self) -> RowStore[Row]:
        """All rows that count, those of earlier attempts included, in order."""
        return self._file.rows

    @property
    def _file(self) -> MetricsFile[Row]:
        assert self._metrics is not None, "it is open as long as the run is"
        return self._metrics

    def __enter__(self) -> Self:
        self._signals.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            try:
                self._end(kind, error)
            finally:
                # last: they may take long, and a cluster does not wait
                self._sinks.close()
        except RunError:
            # a full disk or a deleted folder already ends the run with its own error
            if kind is None:
                raise
        finally:
            self._close()
            self._signals.__exit__(kind, error, traceback)

    def _end(self, kind: type[BaseException] | None, error: BaseException | None) -> None:
        self._file.flush()
        if not (self.directory / "config.json").exists():
            say(f"{self.directory / 'config.json'} was deleted while the run went on; it is written again")
            self._write("config.json", self._config)
        self._status |= {"rows": len(self.rows), "crc32": self._file.crc}
        if kind is None:
            # sinks of a run with nothing left to compute get its rows too
            self._sinks.pass_on(self.directory, self.rows, [])
            self._write_status("finished")
        # whoever requeues a job, as submitit does, may end the process
        elif issubclass(kind, KeyboardInterrupt | SystemExit):
            self._write_status("interrupted")
        else:
            self._write_status("failed", error=f"{kind.__name__}: {str(error).splitlines()[0] if str(error) else ''}")
        self._write_sums()

    def _close(self) -> None:
        if self._metrics is not None:
            self._metrics.close()
        self._lock.close()

    def log(self, rows: Sequence[Row]) -> None:
        """Append rows to metrics.jsonl in one write.

        Raises:
            RunError: if the disk is full, or the file was deleted.
        """
        self._file.append(rows)
        # before they are among the rows: a sink that is opened now gets the earlier ones first
        self._sinks.pass_on(self.directory, self.rows, rows)
        self.rows.extend(rows)

    def flush(self) -> None:
        """Flush the rows to disk, before something is written that counts on them.

        Raises:
            RunError: if the disk is full, or the file was deleted.
        """
        self._file.flush()

    def keep(self, counts: Callable[[Row], bool]) -> None:
        """Keep only the recorded rows that count; the rest came from an interrupted work unit."""
        self._file.keep(counts)

    def folder(self, *names: str) -> Path:
        """A folder in the run's directory, made if it is not there.

        Raises:
            RunError: if it cannot be made, or the run was deleted.
        """
        self._file.refuse_gone()
        path = self.directory
        for name in names:
            path = path / name
            make_folder(path)
        return path

    def save_summary(self, columns: Sequence[str], rows: Sequence[Sequence[Entry]], verdict: Sequence[str]) -> None:
        """Save the final table, in full precision, and sentences, for `lab show`."""
        summary = {"columns": list(columns), "rows": [list(row) for row in rows], "verdict": list(verdict)}
        self._write("summary.json", _dump(summary))

    def set_headline(self, title: str, headline: str) -> None:
        """Set the title and the main result in a few words, for `lab runs`."""
        self._status |= {"title": title, "headline": headline}

    def _write_status(self, status: str, **more: str) -> None:
        self._status |= {"status": status, "updated": _now(), "process": os.getpid()}
        self._write("status.json", _dump({**self._status, **more}))

    def _write_sums(self) -> None:
        names = [name for name in _WITH_DIGEST if (self.directory / name).exists()]
        names += [str(path.relative_to(self.directory)) for path in self.directory.glob(_ANSWERS)]
        try:
            content = sums_of(self.directory, names)
        except OSError as error:
            raise as_run_error(error, self.directory / SUMS) from error
        self._write(SUMS, content)

    def _write(self, name: str, content: bytes | str) -> None:
        self._file.refuse_gone()
        write_atomically(self.directory / name, content)


def deciding(config: Mapping[str, object]) -> dict[str, object]:
    """The keys of a configuration that affect the results."""
    return {key: value for key, value in config.items() if key not in INDIFFERENT_KEYS}


def _dump(content: object) -> str:
    return json.dumps(finite(content), indent=2, default=str, allow_nan=False) + "\n"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
