"""Terminal output of a run: its progress bar, lines in between, and the summary at its end and in `lab show`."""

import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from lab.core.printable import printable
from lab.core.runs.json_files import Entry
from lab.core.streams import say

# of a longer list nobody reads more; the files hold all of it
_MOST_TABLES, _MOST_SENTENCES = 30, 60

_is_quiet = ContextVar("_is_quiet", default=False)


@contextmanager
def quiet() -> Iterator[None]:
    """Context in which a run prints its directory and nothing else; errors are said as ever."""
    token = _is_quiet.set(True)
    try:
        yield
    finally:
        _is_quiet.reset(token)


@contextmanager
def progress(title: str, total: int, *, completed: int = 0) -> Iterator[Callable[[int], None]]:
    """A progress bar on standard error; yields a function that takes the amount done.

    A bar that cannot be shown is said to be missing, and what it is about goes on.
    """
    if _is_quiet.get():
        yield lambda _: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    bar = Progress(*columns, console=Console(stderr=True))
    task = bar.add_task(title, total=total, completed=completed)
    _try(bar.start, bar)
    try:
        yield lambda now: bar.update(task, completed=now)
    finally:
        _try(bar.stop, bar)


def _try(action: Callable[[], None], bar: Progress) -> None:
    try:
        action()
    # a thread that cannot be started is a RuntimeError, a stream that cannot be written an OSError
    except (RuntimeError, OSError) as error:
        bar.live.auto_refresh = False
        with suppress(RuntimeError, OSError):
            # give back the streams that it has taken
            bar.stop()
        say(f"no progress bar: {error}")


def print_summary(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[Entry]], verdict: Sequence[str], figures: Sequence[Path]
) -> None:
    """Print a table for each value of the first column, then the verdict, then where the figures are.

    Of very many the first are printed, and the number of the others. What cannot be printed is lost, not an error.
    """
    if not _is_quiet.get():
        with suppress(OSError):
            _print_summary(title, columns, rows, verdict, figures)


def print_directory(directory: Path) -> None:
    """Print where a run is: the whole of the last line that a run prints, for scripts."""
    with suppress(OSError):
        print(printable(str(directory)))


def _print_summary(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[Entry]], verdict: Sequence[str], figures: Sequence[Path]
) -> None:
    # A file or pipe has no width: do not cut tables to 80 columns there. No markup or emoji codes: paths may contain
    # brackets and colons.
    console = Console(width=None if sys.stdout.isatty() else 160, markup=False, emoji=False)
    if title:
        console.print(printable(title), style="bold", highlight=False)
    blocks = [(label, list(block)) for label, block in itertools.groupby(rows, key=lambda row: row[0])]
    for label, block in blocks[:_MOST_TABLES]:
        texts = [[printable(_text(entry)) for entry in row[1:]] for row in block]
        above: str | None = printable(str(label)) or None
        for places in _parts([printable(name) for name in columns[1:]], texts, console.width):
            table = Table(title=above, title_justify="left", box=None, pad_edge=False, padding=(0, 1))
            for place in places:
                table.add_column(printable(columns[1 + place]), justify="right", no_wrap=True)
            for row in texts:
                table.add_row(*(row[place] for place in places))
            console.print(table)
            console.print()
            above = None
    if len(blocks) > _MOST_TABLES:
        console.print(
            f"({len(blocks) - _MOST_TABLES:,} more tables: summary.json of the run has them)\n", highlight=False
        )
    for line in verdict[:_MOST_SENTENCES]:
        console.print(f"- {printable(line)}", highlight=False)
    if len(verdict) > _MOST_SENTENCES:
        console.print(f"({len(verdict) - _MOST_SENTENCES:,} more sentences there)", highlight=False)
    for path in figures:
        console.print(f"figure: {printable(str(path))}", highlight=False, soft_wrap=True)


def _text(entry: Entry) -> str:
    """A number to three digits; nothing where there is none."""
    if isinstance(entry, float):
        return f"{entry:.3g}"
    return "" if entry is None else str(entry)


def _parts(names: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> list[list[int]]:
    """Columns that fit beside each other, as numbers; the first one is in every part."""
    sizes = [max(map(len, column)) + 2 for column in zip(names, *rows, strict=True)]
    parts = [[0]]
    for place in range(1, len(names)):
        if sum(sizes[there] for there in parts[-1]) + sizes[place] > width + 2 and len(parts[-1]) > 1:
            parts.append([0])
        parts[-1].append(place)
    return parts
