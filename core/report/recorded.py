"""Read a recorded run for a report: what is missing or damaged is a sentence, not an error."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from lab.core.errors import RunError
from lab.core.report.content import Entry, Table
from lab.core.runs.find import run_name, run_state
from lab.core.runs.json_files import read_json, read_json_object


@dataclass
class RecordedRun:
    """The files of a run, as far as they can be read.

    Attributes:
        directory: of the run.
        name: what the report calls it.
        faults: what could not be read, in sentences.
    """

    directory: Path
    name: str
    faults: list[str] = field(default_factory=list)

    @cached_property
    def status(self) -> dict[str, Any]:
        """The content of status.json."""
        return self._object("status.json")

    @cached_property
    def config(self) -> dict[str, Any]:
        """The resolved configuration."""
        return self._object("config.json")

    @cached_property
    def provenance(self) -> dict[str, Any]:
        """Commit, versions, machine and seeds."""
        return self._object("provenance.json")

    @cached_property
    def state(self) -> str:
        """Finished, running, killed, interrupted, failed or unreadable."""
        return run_state(self.directory, self.status)

    @property
    def title(self) -> str:
        """What the user called it; else its name."""
        return str(self.status.get("title") or self.config.get("title") or self.name)

    @cached_property
    def overrides(self) -> list[str]:
        """What was typed."""
        try:
            words = read_json(self.directory / "overrides.json", hint="the command is not known")
        except RunError as error:
            self.faults.append(str(error))
            return []
        if not isinstance(words, list):
            self.faults.append(f"{self.directory / 'overrides.json'} holds no list: the command is not known")
            return []
        return [str(word) for word in words]

    @cached_property
    def summary(self) -> tuple[Table | None, Sequence[str]]:
        """The table that was printed at the end, and the verdict in sentences."""
        content = self._object("summary.json")
        if not content:
            return None, []
        columns, rows, verdict = (_list(content, name) for name in ("columns", "rows", "verdict"))
        is_whole = columns and all(isinstance(text, str) for text in (*columns, *verdict))
        if not is_whole or not all(_is_row(row, len(columns)) for row in rows):
            self.faults.append(f"{self.directory / 'summary.json'} is damaged: it holds no table")
            return None, []
        return Table(title=self.title, columns=columns, rows=rows), verdict

    @cached_property
    def figures(self) -> list[Path]:
        """PNG files, in the order of the names in the configuration."""
        names = self.config.get("figures")
        order = [str(name) for name in names] if isinstance(names, list) else []
        found = (self.directory / "figures").glob("*.png")
        return sorted(found, key=lambda path: (order.index(path.stem) if path.stem in order else len(order), path.stem))

    def table_rows(self, columns: Sequence[str] | None = None, **equal: object) -> list[dict[str, Any]]:
        """The rows of table.parquet that have these values, or one of a list of them; None where a row has no entry.

        Args:
            columns: names; None for all.
            equal: columns and their values.

        Raises:
            RunError: if there is no table, or it is damaged.
        """
        from lab.core.runs.parquet import read_table  # noqa: PLC0415 - a page about damaged runs needs none

        table = read_table(self.directory, columns=columns, equal=equal)
        rows: list[dict[str, Any]] = table.to_pylist()
        return rows

    def _object(self, name: str) -> dict[str, Any]:
        try:
            return read_json_object(self.directory / name, hint=f"resume={run_name(self.directory)} may write it again")
        except RunError as error:
            self.faults.append(str(error))
            return {}


def _list(content: Mapping[str, Any], name: str) -> list[Any]:
    value = content.get(name)
    return value if isinstance(value, list) else []


def _is_row(value: object, size: int) -> bool:
    return isinstance(value, list) and len(value) == size and all(isinstance(entry, Entry) for entry in value)
