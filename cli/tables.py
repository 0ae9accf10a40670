"""`lab runs` and `lab show`: recorded runs as tables. A damaged run is listed as such."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from lab.core.errors import RunError
from lab.core.runs.console import print_summary
from lab.core.runs.find import find_run, outputs_root, run_directories
from lab.core.runs.json_files import json_object_or_none, read_json_object


def print_runs(study: str, limit: int) -> None:
    """List runs under the output folder, the newest first."""
    root = outputs_root()
    directories = run_directories(root / study if study else root)
    console = Console()
    if not directories:
        console.print(f"no runs under {root}; `lab hmm-risk sweep` makes one")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    # names are copied by the user: never wrap them
    for name in ("run", "status", "age"):
        table.add_column(name, no_wrap=True)
    for name in ("title", "result"):
        table.add_column(name, overflow="fold")
    for directory in directories[:limit]:
        status = json_object_or_none(directory / "status.json")
        if status is None:
            table.add_row(str(directory.relative_to(root)), "unreadable", "", "", "")
        else:
            table.add_row(
                str(directory.relative_to(root)),
                _status(directory, status),
                _age(status.get("updated")),
                str(status.get("title", "")),
                str(status.get("headline", status.get("error", ""))),
            )
    console.print(table)


def print_run(name: str) -> None:
    """Print the summary of a run, and where its files are.

    Raises:
        RunError: if there is no such run, or its summary is damaged.
    """
    directory = find_run(name)
    if not (directory / "status.json").exists():
        # not deeper: any folder may be given, also that of everything
        points = {path.parent for path in (*directory.glob("*/status.json"), *directory.glob("*/*/status.json"))}
        for point in sorted(points):
            print_run(str(point))
        if points:
            return
    status = read_json_object(directory / "status.json", hint="if this is not a run, `lab runs` lists them")
    path = directory / "summary.json"
    if not path.exists():
        state = _status(directory, status)
        raise RunError(f"{directory} is {state} and has no table yet; resume={directory.name} goes on with it")
    summary = read_json_object(path, hint=f"resume={directory.name} writes it again")
    try:
        figures = sorted((directory / "figures").glob("*.p[nd][gf]"))
        print_summary(str(status.get("title", "")), summary["columns"], summary["rows"], summary["verdict"], figures)
    except (KeyError, TypeError, IndexError) as error:
        raise RunError(f"{path} is damaged; resume={directory.name} writes it again") from error
    Console().print(f"table: {directory / 'table.parquet'}", highlight=False, soft_wrap=True)


def _status(directory: Path, status: dict[str, Any]) -> str:
    """The recorded status; a run that is recorded as running but holds no lock was killed."""
    import fcntl

    recorded = str(status.get("status", "unreadable"))
    if recorded != "running":
        return recorded
    try:
        with open(directory / ".lock") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return "killed"
    except OSError:
        return "running"
    return "killed"


def _age(moment: Any) -> str:
    try:
        seconds = (datetime.now(UTC) - datetime.fromisoformat(str(moment))).total_seconds()
    except ValueError:
        return ""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"
