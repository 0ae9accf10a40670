"""Recorded runs for commands that take several: where they are, what tells them apart, and whose study they are of."""

import importlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from lab.core.errors import RunError
from lab.core.runs.find import find_run, points_of, run_name, run_state
from lab.core.runs.json_files import json_object_or_none, read_json, read_json_object
from lab.core.streams import say
from lab.experiments.key_help import keys_of
from lab.experiments.spec import Experiment

if TYPE_CHECKING:
    from lab.core.runs.recorded_study import LabelledRun, RecordedStudy

_HINT = "if this is not a run, `lab runs` lists them"


def labelled_runs(names: Sequence[str]) -> "list[LabelledRun]":
    """The runs of some names, in their order; a sweep stands for its points that have a table.

    A run's label is the overrides in which it differs from the others; its name, where that does not tell it apart.

    Raises:
        RunError: if there is no such run, or no point of a sweep has a table.
    """
    from lab.core.runs.recorded_study import LabelledRun

    folders = [find_run(name) for name in names]
    directories = list(dict.fromkeys(point for folder in folders for point in with_table(folder, points_of(folder))))
    if len(directories) == 1:
        return [LabelledRun(directories[0], "")]
    overrides = [_overrides(directory) for directory in directories]
    shared = set.intersection(*map(set, overrides))
    labels = [", ".join(word for word in words if word not in shared) for words in overrides]
    if "" in labels or len(set(labels)) < len(labels):
        labels = [run_name(directory) for directory in directories]
    return [LabelledRun(directory, label) for directory, label in zip(directories, labels, strict=True)]


def with_table(folder: Path, points: Sequence[Path], *, name: str = "table.parquet") -> list[Path]:
    """The points of a sweep that have a table; the others are left out, and counted in a line on stderr.

    One that is recorded as finished is kept: whoever reads its table says that it is gone.

    Args:
        folder: of the sweep; a run that is the only point itself is kept as it is.
        points: its points.
        name: of the file that counts as the table.

    Raises:
        RunError: if none has one.
    """
    if list(points) == [folder]:
        return [folder]
    found = [point for point in points if (point / name).exists() or _is_finished(point)]
    left_out = [point for point in points if point not in found]
    if not found:
        raise RunError(f"{folder}: no point has a table yet; `lab runs` says how it stands")
    if left_out:
        first, more = run_name(left_out[0]), ", …" if len(left_out) > 1 else ""
        say(f"{len(left_out)} of {len(points)} points have no table yet, and are left out: {first}{more}")
    return found


def _is_finished(point: Path) -> bool:
    return (json_object_or_none(point / "status.json") or {}).get("status") == "finished"


def study_of(runs: "Sequence[LabelledRun]", experiments: Sequence[Experiment]) -> "RecordedStudy":
    """The study of some runs.

    Raises:
        RunError: if they are of several studies, or of none.
    """
    found = [_experiment_of(run.directory, experiments) for run in runs]
    for run, experiment in zip(runs, found, strict=True):
        if experiment is not found[0]:
            raise RunError(
                f"{run.directory} is of `lab {experiment.command}`, {runs[0].directory} of `lab {found[0].command}`; "
                "give runs of one study"
            )
    module, _, name = found[0].recorded.partition(":")
    return cast("RecordedStudy", getattr(importlib.import_module(module), name))


def say_unfinished(directories: Iterable[Path]) -> None:
    """Say which of some runs have a table although they are not finished: it may be of fewer draws than they are of."""
    for directory in directories:
        status = json_object_or_none(directory / "status.json")
        state = "finished" if status is None else run_state(directory, status)
        if state != "finished" and (directory / "table.parquet").exists():
            name = run_name(directory)
            say(f"{name} is {state}, and its table may be of an earlier attempt; resume={name} goes on with it")


def config_of(directory: Path) -> dict[str, Any]:
    """The configuration of a run.

    Raises:
        RunError: if it is missing or damaged.
    """
    return read_json_object(directory / "config.json", hint=_HINT)


def _experiment_of(directory: Path, experiments: Sequence[Experiment]) -> Experiment:
    recorded = config_of(directory).keys()
    for experiment in experiments:
        if recorded <= {key.partition(".")[0] for key in keys_of(experiment.schema)}:
            return experiment
    raise RunError(f"{directory} is of no study of this lab; {_HINT}")


def _overrides(directory: Path) -> list[str]:
    content = read_json(directory / "overrides.json", hint=_HINT)
    words = [str(word) for word in content] if isinstance(content, list) else []
    # the name of an experiment says enough
    return [
        word.partition("=")[2] if word.startswith("experiment") else word
        for word in (word.lstrip("+") for word in words)
        if not word.startswith("hydra")
    ]
