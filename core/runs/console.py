"""Terminal output of a run: its progress bar, lines in between, and the summary at its end and in `lab show`."""

import itertools
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from lab.core.printable import printable


def say(line: str) -> None:
    """Write a line to standard error at once, also while a signal interrupts another write."""
    with suppress(OSError):
        os.write(2, f"lab: {line}\n".encode())


@contextmanager
def progress(title: str, total: int, *, completed: int = 0) -> Iterator[Callable[[int], None]]:
    """A progress bar on standard error; yields a function that takes the amount done."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=total, completed=completed)
        yield lambda now: bar.update(task, completed=now)


def print_summary(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], verdict: Sequence[str], figures: Sequence[Path]
) -> None:
    """Print a table for each value of the first column, then the verdict, then where the figures are."""
    # A file or pipe has no width: do not cut tables to 80 columns there. No markup or emoji codes: paths may contain
    # brackets and colons.
    console = Console(width=None if sys.stdout.isatty() else 100, markup=False, emoji=False)
    if title:
        console.print(printable(title), style="bold", highlight=False)
    for label, block in itertools.groupby(rows, key=lambda row: row[0]):
        table = Table(title=printable(label) or None, title_justify="left", box=None, pad_edge=False, padding=(0, 1))
        for name in columns[1:]:
            table.add_column(printable(name), justify="right", no_wrap=True)
        for row in block:
            table.add_row(*map(printable, row[1:]))
        console.print(table)
        console.print()
    for line in verdict:
        console.print(f"- {printable(line)}", highlight=False)
    for path in figures:
        console.print(f"figure: {printable(str(path))}", highlight=False, soft_wrap=True)
