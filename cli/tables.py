"""`lab runs` and `lab show`: recorded runs as tables. A damaged run is listed as such."""

import difflib
import sys
from collections.abc import Collection
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from lab.cli.recorded_runs import say_unfinished, with_table
from lab.cli.sweeps.leaving import waiting_jobs
from lab.core.errors import ConfigError, RunError
from lab.core.printable import printable
from lab.core.runs.console import print_directory, print_summary
from lab.core.runs.find import find_run, in_order, outputs_root, run_directories, run_name, run_state
from lab.core.runs.json_files import json_object_if_there, json_object_or_none, read_json_object

# columns of a title, and of a result that is worth a column; between two columns are spaces
_WIDTH_OF_TITLES, _LEAST_WIDTH, _GAP = 40, 8, 2
# of a run with many students
_MOST_STAGES = 6
_OF_STATUS = ("started", "updated", "title", "headline", "error")


def listed(study: str, limit: int, *, studies: Collection[str]) -> list[dict[str, str | None]]:
    """Runs under the output folder, the newest first: names, states, and what they found; `job` of one that waits.

    Args:
        study: those in its folder alone; by the name of its command or its folder. Empty for all.
        limit: how many.
        studies: the folders of all studies, which may have no run yet.

    Raises:
        ConfigError: if there is no such study.
    """
    root = outputs_root()
    folder = _folder_of(study, root, studies) if study else root
    found: list[dict[str, str | None]] = []
    directories = run_directories(folder)[:limit]
    jobs = waiting_jobs(directories)
    for directory in directories:
        status = json_object_or_none(directory / "status.json")
        run: dict[str, str | None] = {"run": directory.relative_to(root).as_posix(), "directory": str(directory)}
        run["status"] = "unreadable" if status is None else run_state(directory, status)
        recorded = status or {}
        run |= {key: None if recorded.get(key) is None else str(recorded[key]) for key in _OF_STATUS}
        run["job"] = jobs.get(directory)
        found.append(run)
    return found


def _folder_of(study: str, root: Path, studies: Collection[str]) -> Path:
    folders = {path.name for path in root.iterdir() if path.is_dir()} if root.is_dir() else set()
    known = sorted({*studies, *folders})
    name = study if study in known else study.replace("-", "_")
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(known)}"
        raise ConfigError(f"--study {study}: there is no such study; {hint}")
    return root / name


def print_runs(study: str, limit: int, *, studies: Collection[str]) -> None:
    """Print a table of `listed`, one line for each run.

    Raises:
        ConfigError: see `listed`.
    """
    runs = listed(study, limit, studies=studies)
    # a file or pipe has no width: nothing is cut there
    console = Console(width=None if sys.stdout.isatty() else 240, markup=False, emoji=False)
    if not runs:
        command = "`lab hmm-risk sweep` makes one"
        console.print(
            f"no runs of {study} under {outputs_root()}" if study else f"no runs under {outputs_root()}; {command}"
        )
        return
    rows = [(run["run"], run["status"], _age(run.get("updated"))) for run in runs]
    names = [[printable(text or "") for text in row] for row in rows]
    sizes = [max(map(len, column)) for column in zip(("run", "status", "age"), *names, strict=True)]
    rest = console.width - sum(sizes) - _GAP * len(sizes)
    with_titles = rest >= 2 * _WIDTH_OF_TITLES + _GAP
    shown = ["title", "result"] if with_titles else ["result"] if rest >= _LEAST_WIDTH else []
    width = (rest - _GAP) // 2 if with_titles else rest
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("run", "status", "age", *shown):
        table.add_column(name, no_wrap=True)
    for run, words in zip(runs, names, strict=True):
        texts = {"title": run.get("title"), "result": run["headline"] or run["error"] or run["job"]}
        table.add_row(*words, *(_cut(printable(texts[name] or ""), width) for name in shown))
    # names are copied by the user and never cut, as they would be first in a table that is too wide
    console.width = max(console.width, sum(sizes) + _GAP * len(sizes))
    console.print(table, soft_wrap=True)


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"


def print_run(name: str) -> None:
    """Print the summary of a run, and where its files are; of a sweep, of each point that has one.

    Raises:
        RunError: if there is no such run, or its summary is damaged.
    """
    directory = find_run(name)
    if not (directory / "status.json").exists():
        # not deeper: any folder may be given, also that of everything
        points = {path.parent for path in (*directory.glob("*/status.json"), *directory.glob("*/*/status.json"))}
        for point in with_table(directory, in_order(points), name="summary.json") if points else ():
            print_run(str(point))
        if points:
            return
    status = read_json_object(directory / "status.json", hint="if this is not a run, `lab runs` lists them")
    path = directory / "summary.json"
    if not path.exists():
        state = run_state(directory, status)
        raise RunError(f"{directory} is {state} and has no table yet; resume={run_name(directory)} goes on with it")
    say_unfinished([directory])
    summary = read_json_object(path, hint=f"resume={run_name(directory)} writes it again")
    try:
        figures = sorted((directory / "figures").glob("*.p[nd][gf]"))
        print_summary(str(status.get("title", "")), summary["columns"], summary["rows"], summary["verdict"], figures)
    except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
        raise RunError(f"{path} is damaged; resume={run_name(directory)} writes it again") from error
    console = Console(markup=False, emoji=False, highlight=False)
    for line in _stage_lines(directory):
        console.print(printable(line), soft_wrap=True)
    console.print(f"table: {printable(str(directory / 'table.parquet'))}", soft_wrap=True)
    print_directory(directory)


def _stage_lines(directory: Path) -> list[str]:
    """What the stages of a training went on from, and what they trained, in words."""
    path = directory / "stages.json"
    notes = json_object_if_there(path, hint=f"remove it to see the rest of {run_name(directory)}") or {}
    try:
        first = [note for note in notes.get("stages", []) if note["replicate"] == 0]
        lines = [str(line) for note in first[:_MOST_STAGES] for line in note["words"]]
        more = len(notes.get("stages", [])) - len(first[:_MOST_STAGES])
    except (KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{path} is damaged; remove it to see the rest of {run_name(directory)}") from error
    lines += [f"{more} more stages are in {path}"] if more else []
    return [*lines, str(notes["expected"])] if notes.get("expected") else lines


def _age(moment: Any) -> str:
    try:
        seconds = (datetime.now(UTC) - datetime.fromisoformat(str(moment))).total_seconds()
    except ValueError:
        return ""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"
