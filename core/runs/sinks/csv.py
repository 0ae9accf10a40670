"""One CSV file per kind of row, in the run's folder csv/: for spreadsheets and `tail -f`."""

import csv
from collections.abc import Mapping
from pathlib import Path

from lab.core.runs.track import fresh_folder


class Sink:
    """Writes csv/KIND.csv; a row without a kind goes to csv/rows.csv."""

    def open(self, run: Path) -> None:
        """Start with an empty folder."""
        self._folder = fresh_folder(run, "csv")
        self._columns: dict[str, list[str]] = {}

    def row(self, row: Mapping[str, object]) -> None:
        """Append a row; a new column is left empty in earlier rows."""
        kind = str(row.get("kind", "rows"))
        path = self._folder / f"{kind}.csv"
        known = self._columns.get(kind, [])
        missing = [name for name in row if name not in known]
        if missing:
            old = _read(path) if known else []
            known = self._columns[kind] = known + missing
            with path.open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, known)
                writer.writeheader()
                writer.writerows(old)
        with path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, known).writerow(row)

    def close(self) -> None:
        """Nothing to do: every row is already written."""


def _read(path: Path) -> list[dict[str, str]]:
    # line breaks belong to fields, such as a model's answer
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
