"""The table of a benchmark on the terminal, and its result file."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lab.core.files import write_atomically
from lab.experiments.bench.harness import Case, Row, Status

# below this share of a core the median of wall times is doubtful
_QUIET_SHARE = 0.95


def print_case(console: Console, case: Case, rows: Sequence[Row]) -> None:
    """One table: what was compared, how long it took, and whether the required ratio was reached."""
    table = Table(title=f"[bold]{escape(case.name)}[/]  {escape(case.setting)}", title_justify="left")
    table.add_column("candidate")
    for heading in ("median", "quartiles", "repeats", "times ours", "required", "largest difference"):
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(escape(row.candidate), *_cells(row))
    console.print(table)
    busy = [row.candidate for row in rows if row.processor_share is not None and row.processor_share < _QUIET_SHARE]
    if busy:
        console.print(f"[yellow]The machine was busy: less than {_QUIET_SHARE:.0%} of a core for {', '.join(busy)}.[/]")


def print_machine(console: Console, machine: dict[str, Any]) -> None:
    """What the times belong to, and a warning if a library had more than one thread."""
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    threads = ", ".join(f"{name}: {count}" for name, count in machine["threads"].items())
    console.print(f"{machine['processor']}; {machine['system']}; Python {machine['python']}; {versions}")
    console.print(f"threads ({threads}); everything ran in one process, bound to one core where the system can do that")
    if max(machine["threads"].values()) > 1:
        console.print("[yellow]A library had more than one thread: start the benchmark in a process of its own.[/]")


def print_summary(console: Console, results: Sequence[Sequence[Row]]) -> None:
    """How many of the required ratios were reached, and which were not."""
    judged = [row for rows in results for row in rows if row.is_met is not None]
    missed = [row for row in judged if not row.is_met]
    console.print(f"required ratios reached: {len(judged) - len(missed)} of {len(judged)} that could be measured")
    for row in missed:
        console.print(f"[red]missed:[/] {row.case}, {row.candidate}: {row.ratio:.3g} instead of {row.required_ratio:g}")


def _cells(row: Row) -> tuple[str, ...]:
    if row.status in (Status.missing, Status.failed):
        note = row.note if row.status is Status.missing else f"failed: {row.note}"
        # a note holds square brackets, which rich would take for a style
        return "", "", "", "", "", escape(note)
    difference = f"{row.difference:.1e} {row.unit} (at most {row.tolerance:.0e})"
    median_s, quartiles_s = row.median_s, row.quartiles_s
    if median_s is None or quartiles_s is None:
        return "", "", "", "", "", f"[red]differs by {difference}[/]"
    repeats = str(len(row.times_s)) + (f" x {row.calls_per_repeat}" if row.calls_per_repeat > 1 else "")
    spread = f"{format_seconds(quartiles_s[0])} to {format_seconds(quartiles_s[1])}"
    ratio = "" if row.ratio is None else f"{row.ratio:.3g}"
    return format_seconds(median_s), spread, repeats, ratio, _requirement(row), difference


def _requirement(row: Row) -> str:
    if row.required_ratio is None or row.is_met is None:
        return ""
    return f"{row.required_ratio:g} " + ("[green]met[/]" if row.is_met else "[red]missed[/]")


def format_seconds(seconds: float) -> str:
    """Three significant digits in the unit that suits."""
    for factor, unit in ((1.0, "s"), (1e3, "ms")):
        if seconds * factor >= 1.0:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds * 1e6:.3g} µs"


def document(benchmark: str, machine: dict[str, Any], cases: Sequence[tuple[Case, Sequence[Row]]]) -> dict[str, Any]:
    """Everything the tables show and the single times behind them, as plain data."""
    return {
        "benchmark": benchmark,
        "machine": machine,
        "cases": [
            {"name": case.name, "setting": case.setting, "rows": [_plain(row) for row in rows]} for case, rows in cases
        ],
    }


def _plain(row: Row) -> dict[str, Any]:
    return asdict(row) | {"median_s": row.median_s, "quartiles_s": row.quartiles_s, "is_met": row.is_met}


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write the result file; it is complete or absent."""
    write_atomically(path, json.dumps(content, indent=1, allow_nan=False) + "\n")
