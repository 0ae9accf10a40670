"""`lab compare`: where configurations of recorded runs differ, and their results side by side."""

import csv
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lab.cli.help import RESULTS
from lab.cli.recorded_runs import config_of, labelled_runs, say_unfinished, study_of
from lab.cli.run_data import print_json
from lab.cli.seed_means import print_means
from lab.core.errors import ConfigError
from lab.core.printable import printable
from lab.core.runs.compare import Difference, differing_keys, paired
from lab.core.runs.find import run_name
from lab.core.runs.json_files import json_object_if_there
from lab.core.streams import printed
from lab.experiments.spec import Experiment

if TYPE_CHECKING:
    from rich.console import Console

    from lab.core.runs.recorded_study import LabelledRun

_HELP = """Compare recorded runs: keys, results, verdicts.

Keys of the configuration are shown where they differ, results side by side, and the verdict of each run. Each run is
compared with the first, point by point, by the difference and by z: the difference in standard errors of itself. A
curve is found in the other run by its label, without a signal-to-noise ratio that is not configured; a run's only curve
by whatever label. The table shows one quantity; --json and --csv have all of them, in full precision.

With --over-seeds, runs that differ in their seed alone are one line: the mean over seeds, its 95 % interval, and the
number of runs. Runs that are not finished are left out, and counted.

\b
Examples:
  lab compare RUN RUN2
  lab compare RUN RUN2 RUN3 --quantity prediction_risk
  lab compare SWEEP --csv > differences.csv
  lab compare SWEEP SWEEP2 --over-seeds
"""

_COLUMNS = ("run", "curve", "point", "quantity", "first", "first_se", "second", "second_se", "difference", "z")


def add(app: typer.Typer, experiments: Callable[[], Sequence[Experiment]]) -> None:
    """Add the command `compare` for runs of some experiments."""

    @app.command(help=_HELP, rich_help_panel=RESULTS)
    def compare(
        run: Annotated[
            list[str], typer.Argument(help="Runs or sweeps: directories, or names as `lab runs` lists them.")
        ],
        quantity: Annotated[str, typer.Option(help="What the printed table shows.")] = "",
        over_seeds: Annotated[
            bool, typer.Option("--over-seeds", help="Means over seeds of runs that differ in nothing else.")
        ] = False,
        as_json: Annotated[bool, typer.Option("--json", help="Everything as JSON.")] = False,
        as_csv: Annotated[bool, typer.Option("--csv", help="The results as CSV.")] = False,
    ) -> None:
        from lab.cli.dispatch import one_line_errors

        with one_line_errors(), printed():
            if as_json and as_csv:
                raise ConfigError("--json and --csv cannot be printed together; leave one out")
            shown = print_means if over_seeds else print_comparison
            shown(run, experiments(), quantity=quantity, as_json=as_json, as_csv=as_csv)


def print_comparison(
    names: Sequence[str], experiments: Sequence[Experiment], *, quantity: str, as_json: bool, as_csv: bool
) -> None:
    """Print the comparison.

    Raises:
        LabError: if there are fewer than two runs, no such run or quantity, or runs of two studies.
    """
    runs = labelled_runs(names)
    if len(runs) < 2:
        raise ConfigError(f"{names[0]} is one run; name two or more, or a sweep with several points that have ended")
    say_unfinished(run.directory for run in runs)
    study = study_of(runs, experiments)
    results = [study.results(run.directory) for run in runs]
    pairs = [paired(results[0], other) for other in results[1:]]
    quantities = list(dict.fromkeys(result.quantity for found in results for result in found))
    if quantity and quantity not in quantities:
        raise ConfigError(f"--quantity {quantity}: choose from {', '.join(quantities)}")
    keys = differing_keys([config_of(run.directory) for run in runs])
    if as_json:
        print_json(_content(runs, keys, pairs))
    elif as_csv:
        _write_csv(runs, pairs)
    else:
        _print(runs, keys, pairs, quantity or next(iter(quantities), ""), quantities)


def _content(
    runs: "Sequence[LabelledRun]", keys: Sequence[tuple[str, list[object]]], pairs: Sequence[Sequence[Difference]]
) -> dict[str, Any]:
    return {
        "runs": [{"run": str(run.directory), "label": run.label, "verdict": _verdict(run)} for run in runs],
        "config": [{"key": key, "values": values} for key, values in keys],
        "results": [
            dict(zip(_COLUMNS, _row(run, pair), strict=True))
            for run, found in zip(runs[1:], pairs, strict=True)
            for pair in found
        ],
    }


def _row(run: "LabelledRun", pair: Difference) -> tuple[object, ...]:
    first, second = pair.first, pair.second
    errors = first.standard_error, second.standard_error
    place = (run_name(run.directory), pair.curve, pair.point, pair.quantity)
    return (*place, first.value, errors[0], second.value, errors[1], pair.difference, pair.z)


def _write_csv(runs: "Sequence[LabelledRun]", pairs: Sequence[Sequence[Difference]]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for run, found in zip(runs[1:], pairs, strict=True):
        writer.writerows(_row(run, pair) for pair in found)


def _print(
    runs: "Sequence[LabelledRun]",
    keys: Sequence[tuple[str, list[object]]],
    pairs: Sequence[Sequence[Difference]],
    quantity: str,
    quantities: Sequence[str],
) -> None:
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else 160, markup=False, emoji=False, highlight=False)
    letters = [chr(ord("A") + number) if number < 26 else f"run {number + 1}" for number in range(len(runs))]
    for letter, run in zip(letters, runs, strict=True):
        console.print(f"{letter}: {printable(run_name(run.directory))}  {printable(run.label)}", soft_wrap=True)
    console.print()
    _print_table(
        console,
        "configuration" if keys else "configuration: the same",
        ("key", *letters),
        [[key, *(_short(value) for value in values)] for key, values in keys],
    )
    for letter, run, found in zip(letters[1:], runs[1:], pairs, strict=True):
        shown = [pair for pair in found if pair.quantity == quantity]
        title = f"{quantity}: {letter} against A, {len(shown)} points that both have"
        names = ("curve", "point", "A", "s.e.", letter, "s.e.", "difference", "z")
        _print_table(console, title, names, [_texts(pair) for pair in shown])
        if _seed(runs[0]) == _seed(run):
            console.print(
                "z takes the runs as independent; with one seed they may share draws, and it is too small then.\n"
            )
    others = [name for name in quantities if name != quantity]
    if others:
        console.print(f"--quantity shows {', '.join(others)} instead\n", soft_wrap=True)
    for letter, run in zip(letters, runs, strict=True):
        for line in _verdict(run):
            console.print(f"{letter}: {printable(line)}", soft_wrap=True)


def _print_table(console: "Console", title: str, names: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.table import Table

    console.print(printable(title), style="bold")
    if rows:
        table = Table(box=None, pad_edge=False)
        for number, name in enumerate(names):
            table.add_column(printable(name), justify="left" if number == 0 else "right", overflow="fold")
        for row in rows:
            table.add_row(*(printable(text) for text in row))
        console.print(table)
    console.print()


def _texts(pair: Difference) -> list[str]:
    numbers = []
    for result in (pair.first, pair.second):
        error = result.standard_error
        numbers += [f"{result.value:.4g}", result.summary if error is None else f"{error:.2g}"]
    return [pair.curve, pair.point, *numbers, f"{pair.difference:+.3g}", "" if pair.z is None else f"{pair.z:+.2f}"]


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _verdict(run: "LabelledRun") -> list[str]:
    hint = f"resume={run_name(run.directory)} writes it again"
    summary = json_object_if_there(run.directory / "summary.json", hint=hint) or {}
    lines = summary.get("verdict")
    return [str(line) for line in lines] if isinstance(lines, list) else []


def _seed(run: "LabelledRun") -> object:
    return config_of(run.directory).get("seed")
