"""The table of a case: whole in a file or a wide terminal, with fewer columns in a narrow one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

from lab.experiments.bench.harness import Case, Row, Status

# wide enough to measure any table in
_UNLIMITED = 10_000


@dataclass(frozen=True, slots=True)
class _Column:
    """A column of numbers; `is_detail`: left out of a terminal where the table would not fit."""

    heading: str
    cell: Callable[[Row], str]
    is_detail: bool = False


def print_case(console: Console, case: Case, rows: Sequence[Row]) -> None:
    """Name and setting, the table of times, shares and ratios, and below it what does not fit in a cell."""
    console.print(f"\n[bold]{escape(case.name)}[/]")
    console.print(case.setting, markup=False, highlight=False)
    columns = _columns(case, rows)
    table = _table(rows, columns)
    unlimited = console.options.update(width=_UNLIMITED)
    is_whole = Measurement.get(console, unlimited, table).maximum <= console.width
    console.print(table if is_whole else _table(rows, [column for column in columns if not column.is_detail]))
    if not is_whole:
        for line in _largest_differences(rows):
            console.print(line, markup=False, highlight=False)
    for row in rows:
        note = _note(row)
        if note:
            # the terminal folds it, so that a command can be copied
            console.print(f"{row.candidate}: {note}", markup=False, highlight=False, soft_wrap=True)


def _table(rows: Sequence[Row], columns: Sequence[_Column]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    # in a narrow terminal a name is folded between words
    longest_word = max(len(word) for row in rows for word in row.candidate.split())
    table.add_column("candidate", overflow="fold", min_width=longest_word)
    for column in columns:
        table.add_column(column.heading, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(escape(row.candidate), *(column.cell(row) for column in columns))
    return table


def _columns(case: Case, rows: Sequence[Row]) -> list[_Column]:
    basis = "peak" if case.peak is None else case.peak.basis
    units = {row.unit for row in rows if row.status is Status.timed}
    unit = f",\n{units.pop()}" if len(units) == 1 else ""
    shares = [
        _Column(f"of {basis},\nas executed", lambda row: _percent(row.executed_share)),
        _Column(f"of {basis},\nin the paper", lambda row: _percent(row.peak_share)),
        _Column("of streaming\nbandwidth", lambda row: _percent(row.streaming_share)),
    ]
    return [
        _Column("median", _median),
        _Column("quartiles", _quartiles, is_detail=True),
        _Column("repeats", _repeats, is_detail=True),
        _Column("times\nours", lambda row: "" if row.ratio is None else f"{row.ratio:.3g}"),
        *([_Column("required", _requirement)] if any(map(_requirement, rows)) else []),
        *(column for column in shares if any(map(column.cell, rows))),
        _Column(f"difference{unit}", lambda row: _difference(row, with_unit=not unit), is_detail=True),
    ]


def _median(row: Row) -> str:
    if row.median_s is not None:
        return format_seconds(row.median_s)
    return f"[red]{row.status}[/]" if row.status is Status.differs else str(row.status)


def _quartiles(row: Row) -> str:
    quartiles_s = row.quartiles_s
    return "" if quartiles_s is None else f"{format_seconds(quartiles_s[0])} to {format_seconds(quartiles_s[1])}"


def _repeats(row: Row) -> str:
    if not row.times_s:
        return ""
    return str(len(row.times_s)) + (f" x {row.calls_per_repeat}" if row.calls_per_repeat > 1 else "")


def _requirement(row: Row) -> str:
    if row.required_ratio is None or row.is_met is None:
        return ""
    return f"{row.required_ratio:.3g} " + ("[green]met[/]" if row.is_met else "[red]missed[/]")


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.0%}"


def _difference(row: Row, *, with_unit: bool) -> str:
    if row.status is not Status.timed:
        return ""
    return f"{row.difference:.1e} ≤ {row.tolerance:.0e}" + (f" {row.unit}" if with_unit else "")


def _largest_differences(rows: Sequence[Row]) -> list[str]:
    """For each unit, the difference that is nearest to its tolerance."""
    worst: dict[str, tuple[float, str]] = {}
    for row in rows:
        if row.status is Status.timed and row.difference is not None:
            share = row.difference / row.tolerance if row.tolerance else row.difference
            found = share, _difference(row, with_unit=True)
            worst[row.unit] = max(worst.get(row.unit, found), found)
    return [f"largest difference: {text}" for _, text in worst.values()]


def _note(row: Row) -> str:
    if row.status is Status.differs:
        return f"differs by {row.difference:.1e} {row.unit} (at most {row.tolerance:.0e})"
    return f"failed: {row.note}" if row.status is Status.failed else row.note


def format_seconds(seconds: float) -> str:
    """Three significant digits in a suitable unit."""
    for factor, unit in ((1.0, "s"), (1e3, "ms")):
        if seconds * factor >= 1.0:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds * 1e6:.3g} µs"
