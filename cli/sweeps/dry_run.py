"""`--dry-run`: the points of a command as a table, after the checks of a real start; nothing is written."""

import sys

from lab.cli.sweeps.points import MOST_CHECKED, Command, Point
from lab.core.printable import printable

_CHOSEN = "chosen while it goes on; checked with the ends of every range:"


def print_points(command: Command) -> None:
    """Print a line for each point of a command that was checked: number, overrides, directory, state, and needs."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 240, markup=False, emoji=False, highlight=False)
    columns = ["point", "overrides", *(() if command.is_search else ("directory", "state")), "needs"]
    if not any(command.needs.values()):
        columns.remove("needs")
    if command.is_search:
        console.print(f"{command.hydra.sweeper.n_trials} points, {_CHOSEN}", soft_wrap=True)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns:
        table.add_column(name, overflow="fold", justify="right" if name == "point" else "left")
    for point in command.points:
        texts = _texts(command, point)
        table.add_row(*(printable(texts[name]) for name in columns))
    console.print(table)
    console.print(f"\n{_count(command)}; nothing was started", soft_wrap=True)


def _texts(command: Command, point: Point) -> dict[str, str]:
    return {
        "point": str(point.number),
        "overrides": " ".join(point.own),
        "directory": str(point.directory),
        "state": _state(command, point),
        "needs": command.needs.get(point.number, ""),
    }


def _state(command: Command, point: Point) -> str:
    state = point.state()
    # one that is recorded as finished, but not with these keys, or not any more, would run
    is_other = command.is_sweep and state == "finished" and point.number not in command.finished
    return "finished with other keys, or damaged" if is_other else state


def _count(command: Command) -> str:
    number = len(command.points)
    if not command.is_sweep:
        return "one run"
    unchecked = f"; {number - MOST_CHECKED} of them are not checked" if number > MOST_CHECKED else ""
    if command.is_search:
        return f"{number} corners{unchecked}"
    return f"{number} points, of which {len(command.finished)} are finished{unchecked}"
