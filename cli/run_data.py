"""Recorded runs as JSON and CSV, for other programs: numbers in full precision."""

import csv
import io
import json
import sys
from pathlib import Path
from typing import Any

from lab.cli.recorded_runs import say_unfinished, with_table
from lab.core.errors import RunError
from lab.core.runs.find import find_run, in_order, run_directories, run_name
from lab.core.runs.json_files import finite, json_object_if_there, read_json_object

# rows that are turned into text together
_AT_ONCE = 50_000


def print_json(content: object) -> None:
    """Print a value as strict JSON, which has no word for NaN and infinity: they are null."""
    print(json.dumps(finite(content), indent=2, allow_nan=False))


def run_content(name: str) -> dict[str, Any] | list[dict[str, Any]]:
    """What is recorded of a run; a list with one entry for each point of a sweep.

    Raises:
        RunError: if there is no such run, or it has no table yet.
    """
    directory = find_run(name)
    points = _points(directory)
    say_unfinished(points)
    return _content(directory) if points == [directory] else [_content(point) for point in points]


def print_csv(name: str) -> None:
    """Print the table of a run; of a sweep, those of all its points, with a first column that names the point.

    Raises:
        RunError: if there is no such run, it has no table yet, or the tables of its points have different columns.
    """
    import pyarrow as pa
    from pyarrow.csv import WriteOptions
    from pyarrow.csv import write_csv as write_table

    from lab.core.runs.parquet import read_table

    directory = find_run(name)
    points = _points(directory)
    say_unfinished(points)
    tables = [read_table(point) for point in points]
    if points != [directory]:
        names = [point.relative_to(directory).as_posix() for point in points]
        tables = [
            table.add_column(0, "point", pa.array([name] * len(table)))
            for name, table in zip(names, tables, strict=True)
        ]
    for table in tables[1:]:
        if table.column_names != tables[0].column_names:
            raise RunError(f"{directory}: its points have different columns; give one point, such as {points[0]}")
    # as text: what standard output is takes no bytes where it is closed, and knows of no error in them
    table = pa.concat_tables(tables, promote_options="permissive")
    for number, part in enumerate([table.slice(0, 0), *table.to_batches(_AT_ONCE)]):
        buffer = io.BytesIO()
        write_table(part, buffer, WriteOptions(include_header=number == 0))
        sys.stdout.write(buffer.getvalue().decode())


def _points(directory: Path, *, name: str = "table.parquet") -> list[Path]:
    """The run itself, or the runs of a sweep that have a table."""
    found = in_order(path for path in run_directories(directory) if path != directory)
    is_sweep = found and not (directory / "status.json").exists()
    return with_table(directory, found, name=name) if is_sweep else [directory]


def _content(directory: Path) -> dict[str, Any]:
    from lab.core.runs.parquet import read_table

    hint = "if this is not a run, `lab runs` lists them"
    status = read_json_object(directory / "status.json", hint=hint)
    again = f"resume={run_name(directory)} writes it again"
    summary = json_object_if_there(directory / "summary.json", hint=again) or {}
    return {
        "run": str(directory),
        **{key: status.get(key) for key in ("status", "started", "updated", "title", "headline")},
        "verdict": summary.get("verdict", []),
        "summary": _summary(summary),
        "config": json_object_if_there(directory / "config.json", hint="put it back from a copy"),
        "provenance": json_object_if_there(directory / "provenance.json", hint=again),
        "stages": json_object_if_there(directory / "stages.json", hint=again),
        "table": read_table(directory).to_pylist(),
    }


def _summary(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """A mapping for each line of the summary; empty if it is missing or damaged."""
    columns, rows = summary.get("columns"), summary.get("rows")
    if not isinstance(columns, list) or not isinstance(rows, list):
        return []
    return [dict(zip(map(str, columns), row, strict=False)) for row in rows if isinstance(row, list)]


def print_summary_csv(name: str) -> None:
    """Print the summary of a run as CSV, a line for each point with its means and errors; of a sweep, of all points.

    Raises:
        RunError: if there is no such run, or it has no summary yet.
    """
    directory = find_run(name)
    points = _points(directory, name="summary.json")
    say_unfinished(points)
    lines: list[dict[str, Any]] = []
    for point in points:
        of_sweep = {} if points == [directory] else {"point": point.relative_to(directory).as_posix()}
        hint = f"resume={run_name(point)} writes it"
        lines += [of_sweep | line for line in _summary(read_json_object(point / "summary.json", hint=hint))]
    writer = csv.DictWriter(
        sys.stdout, list(dict.fromkeys(name for line in lines for name in line)), lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows(lines)
