"""Terminal output of a run: its progress bar, lines in between, and the summary at its end and in `lab show`."""

import itertools
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Protocol

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from lab.core.errors import ConfigError
from lab.core.printable import printable
from lab.core.runs.json_files import Entry
from lab.core.streams import say

# of a longer list nobody reads more; the files hold all of it
_MOST_TABLES, _MOST_SENTENCES = 30, 60

# seconds between lines about progress, where there is no bar; the variable sets another number of them
_LINE_EVERY_S, _VARIABLE = 30.0, "LAB_PROGRESS_EVERY"

_is_quiet = ContextVar("_is_quiet", default=False)


@contextmanager
def quiet() -> Iterator[None]:
    """Context in which a run prints its directory and nothing else; errors are said as ever."""
    token = _is_quiet.set(True)
    try:
        yield
    finally:
        _is_quiet.reset(token)


def is_quiet() -> bool:
    """Whether a run prints its directory and nothing else."""
    return _is_quiet.get()


class Advance(Protocol):
    """Takes the amount done of a task, and a few words about how it stands."""

    def __call__(self, now: int, words: str = "") -> None:
        """Show both."""
        ...


@contextmanager
def progress(title: str, total: int, *, completed: int = 0) -> Iterator[Advance]:
    """A progress bar on standard error; in a file or a pipe, a line from time to time instead.

    A bar that cannot be shown is said to be missing, and what it is about goes on.

    Raises:
        ConfigError: as `seconds_between_lines`.
    """
    if _is_quiet.get():
        yield lambda now, words="": None
        return
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines(title, total, completed)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    # the time left is that of the last thousand steps, however long they take: rich's own window of 30 s never holds
    # two steps of a minute
    bar = _Bar(*columns, console=console, speed_estimate_period=math.inf)
    task = bar.add_task(title, total=total, completed=completed, words="")
    _try(bar.start, bar)
    try:
        yield lambda now, words="": bar.update(task, completed=now, words=words)
    finally:
        _try(bar.stop, bar)


class _Bar(Progress):
    """A bar with words below: beside it they would leave it no room in a terminal of 80 columns."""

    def get_renderables(self) -> Iterator[RenderableType]:
        """The bar, and a line of words."""
        yield from super().get_renderables()
        yield from (Text(task.fields["words"]) for task in self.tasks if task.fields["words"])


class _Lines:
    """Progress as lines of text; short tasks print none."""

    def __init__(self, title: str, total: int, completed: int) -> None:
        self._title, self._total, self._before = title, total, completed
        # reading a model and the like, before the first step, does not tell how long the others take
        self._first: tuple[int, float] | None = None
        self._last = time.monotonic()
        self._every = seconds_between_lines()

    def __call__(self, now: int, words: str = "") -> None:
        time_now = time.monotonic()
        if self._first is None and now > self._before:
            self._first = now, time_now
        if time_now - self._last < self._every:
            return
        self._last = time_now
        left = ""
        if self._first is not None and now > self._first[0]:
            steps, seconds = now - self._first[0], time_now - self._first[1]
            left = f"{_duration((self._total - now) * seconds / steps)} left"
        parts = (f"{self._title}: {now:,} of {self._total:,}", words, left)
        say(", ".join(part for part in parts if part))


def seconds_between_lines() -> float:
    """Seconds between lines about progress where there is no bar: LAB_PROGRESS_EVERY, or half a minute.

    Raises:
        ConfigError: if the variable is not a finite number, 0 or more.
    """
    given = os.environ.get(_VARIABLE)
    if given is None:
        return _LINE_EVERY_S
    try:
        seconds = float(given)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise ConfigError(
            f"{_VARIABLE}={given} must be a number of seconds, 0 or more; give one, such as 300, or unset it"
        )
    return seconds


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


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
