"""`lab compare --over-seeds`: one table of the runs or sweeps, with means over seeds of what is otherwise the same."""

import csv
import sys
from collections.abc import Sequence
from pathlib import Path

from lab.cli.recorded_runs import config_of, study_of
from lab.cli.run_data import print_json
from lab.core.errors import ConfigError, RunError
from lab.core.printable import printable
from lab.core.runs.find import find_run, points_of, run_name
from lab.core.runs.json_files import json_object_or_none
from lab.core.runs.over_seeds import SEED, Group, SeedMean, grouped, means
from lab.core.runs.recorded_study import LabelledRun
from lab.core.streams import say
from lab.experiments.spec import Experiment

_COLUMNS = ("curve", "point", "quantity", "value", "half_width", "runs", "summary")


def print_means(
    names: Sequence[str], experiments: Sequence[Experiment], *, quantity: str, as_json: bool, as_csv: bool
) -> None:
    """Print the table. Points that have not ended are left out, and counted.

    Raises:
        LabError: if there is no such run, nothing has ended, runs are of two studies, or there is no such quantity.
    """
    directories = list(dict.fromkeys(point for name in names for point in points_of(find_run(name))))
    ended = [
        path for path in directories if (json_object_or_none(path / "status.json") or {}).get("status") == "finished"
    ]
    left_out = [path for path in directories if path not in ended]
    if not ended:
        raise RunError(f"{names[0]}: no run has finished; `lab runs` says how it stands")
    if left_out:
        more = ", …" if len(left_out) > 1 else ""
        say(f"{len(left_out)} of {len(directories)} runs are not finished, and left out: {run_name(left_out[0])}{more}")
    study = study_of([LabelledRun(path, "") for path in ended], experiments)
    configs = [config_of(path) for path in ended]
    keys, groups = grouped(configs)
    for group in groups:
        for place in group.again:
            say(f"{run_name(ended[place])} repeats seed={configs[place].get(SEED)} of another run, and is left out")
    found = [means([study.results(ended[place]) for place in group.runs]) for group in groups]
    quantities = list(dict.fromkeys(mean.quantity for of_group in found for mean in of_group))
    if quantity and quantity not in quantities:
        raise ConfigError(f"--quantity {quantity}: choose from {', '.join(quantities)}")
    if as_json:
        print_json(
            {
                "keys": keys,
                "left_out": [str(path) for path in left_out],
                "groups": [
                    _content(keys, group, of_group, ended) for group, of_group in zip(groups, found, strict=True)
                ],
            }
        )
    elif as_csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow([*keys, *_COLUMNS])
        writer.writerows(
            [*group.values, *mean] for group, of_group in zip(groups, found, strict=True) for mean in of_group
        )
    else:
        _print(keys, groups, found, quantity or next(iter(quantities), ""), quantities)


def _content(keys: Sequence[str], group: Group, found: Sequence[SeedMean], ended: Sequence[Path]) -> dict[str, object]:
    return {
        "values": dict(zip(keys, group.values, strict=True)),
        "runs": [str(ended[place]) for place in group.runs],
        "results": [dict(zip(_COLUMNS, mean, strict=True)) for mean in found],
    }


def _print(
    keys: Sequence[str],
    groups: Sequence[Group],
    found: Sequence[Sequence[SeedMean]],
    quantity: str,
    quantities: Sequence[str],
) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 160, markup=False, emoji=False, highlight=False)
    console.print(f"{printable(quantity)}: means over seeds, with 95 % intervals by Student's t", style="bold")
    table = Table(box=None, pad_edge=False)
    for name in (*keys, "curve", "point", "value", "±", "runs", "summary"):
        table.add_column(
            printable(name), justify="right" if name in ("value", "±", "runs") else "left", overflow="fold"
        )
    for group, of_group in zip(groups, found, strict=True):
        for mean in of_group:
            if mean.quantity == quantity:
                width = "" if mean.half_width is None else f"{mean.half_width:.2g}"
                texts = [*map(str, group.values), mean.curve, mean.point, f"{mean.value:.4g}", width]
                table.add_row(*map(printable, [*texts, str(mean.num_runs), mean.summary]))
    console.print(table)
    others = [name for name in quantities if name != quantity]
    if others:
        console.print(f"\n--quantity shows {', '.join(others)} instead", soft_wrap=True)
