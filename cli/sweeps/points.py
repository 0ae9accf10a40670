"""The points of a command: of a sweep each combination of its values, of a run the run. Checked before one starts."""

import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lab.cli.cluster.in_a_job import refuse_several_tasks
from lab.cli.override_errors import unreachable_key
from lab.cli.resume import BY_NUMBER, refuse_links
from lab.cli.sweeps.composing import composed, sweep_axes, without_hydra
from lab.core.errors import ConfigError, RunError
from lab.core.runs.atomic_files import refuse_unwritable_folder
from lab.core.runs.find import run_state
from lab.core.runs.finished import is_finished_as
from lab.core.runs.json_files import json_object_or_none
from lab.experiments.spec import Experiment, function_of

# points of a sweep that are checked before the first one starts; composing one takes about 0.1 s
MOST_CHECKED = 200


@dataclass(frozen=True, slots=True)
class Point:
    """One run of a command.

    Attributes:
        number: its place in the sweep, from 0.
        own: overrides in which it differs from the other points; of a run, all of them.
        words: all overrides that compose it.
        directory: where it writes.
    """

    number: int
    own: tuple[str, ...]
    words: tuple[str, ...]
    directory: Path

    def status(self) -> dict[str, Any]:
        """What is recorded of it; empty if nothing is, or it cannot be read."""
        return json_object_or_none(self.directory / "status.json") or {}

    def state(self) -> str:
        """The word that `lab runs` would show, or `new`."""
        if not (self.directory / "status.json").exists():
            return "new"
        return run_state(self.directory, self.status())


@dataclass(frozen=True, slots=True)
class Command:
    """What a command line is about to do.

    Attributes:
        experiment: whose command it is.
        is_sweep: whether it has points; a run has one.
        is_search: whether a sweeper chooses the points while it goes on; those here are the corners of its space.
        folder: of the sweep, or of the run.
        hydra: Hydra's part of the first point's configuration.
        first: that configuration, as a job sees it.
        points: in the order of Hydra's sweeper.
        finished: numbers of the points of a sweep that need not run; filled by `checked_command`, as the next.
        needs: what each point that was checked will need, in words, by its number.
    """

    experiment: Experiment
    is_sweep: bool
    is_search: bool
    folder: Path
    hydra: Any
    first: Any
    points: tuple[Point, ...]
    finished: frozenset[int] = frozenset()
    needs: Mapping[int, str] = field(default_factory=dict)

    @property
    def is_elsewhere(self) -> bool:
        """Whether a launcher hands its points to another machine, which has other limits."""
        launcher = str(self.hydra.launcher.get("_target_", ""))
        return self.is_sweep and "submitit" in launcher and "Local" not in launcher

    def name_of(self, point: Point) -> str:
        """The folder of a point within that of the sweep."""
        return point.directory.relative_to(self.folder).as_posix()

    def check(self, point: Point) -> str:
        """Refuse a point that cannot work; what it will need, in words.

        Raises:
            ConfigError: naming key, value and fix.
        """
        check = function_of(self.experiment.check)
        folder = None if self.is_elsewhere else self.folder
        try:
            found: str = check(self._composed(point), folder)
        except ConfigError as error:
            is_added = any(word.startswith("+") for word in point.words)
            message = unreachable_key(self.experiment.config, point.words) if is_added else None
            raise ConfigError(message or str(error)) from error
        return found

    def is_finished(self, point: Point) -> bool:
        """Whether a point has ended with this configuration, and what it wrote is undamaged."""
        if point.status().get("status") != "finished":
            return False
        try:
            content = function_of(self.experiment.content)(self._composed(point))
        except (ConfigError, RunError):
            # the run itself says what is wrong
            return False
        return is_finished_as(point.directory, content)

    def _composed(self, point: Point) -> Any:
        # one point is composed already
        return self.first if len(self.points) == 1 else composed(self.experiment.config, point.words)


def command_of(experiment: Experiment, overrides: Sequence[str], *, is_multirun: bool) -> Command:
    """The points of a command line; nothing is written.

    Args:
        experiment: whose schemas are registered; Hydra is initialised.
        overrides: behind the command, without flags.
        is_multirun: whether -m is among the flags.

    Raises:
        LabError: for overrides that compose nothing, and folders that cannot hold runs.
    """
    fixed, axes = sweep_axes(overrides, is_search=_is_search(overrides)) if is_multirun else (list(overrides), [])
    first = _with_hydra(experiment.config, [*fixed, *(axis[0] for axis in axes)])
    is_sweep = is_multirun or str(first.hydra.mode).endswith("MULTIRUN")
    _refuse_no_directory(first, is_sweep=is_sweep)
    is_search = is_sweep and "optuna" in str(first.hydra.sweeper.get("_target_", ""))
    if is_sweep:
        refuse_several_tasks(first.hydra.launcher)
        params = [f"{key}={value}" for key, value in (first.hydra.sweeper.get("params") or {}).items()]
        if params:
            fixed, axes = sweep_axes([*params, *overrides], is_search=is_search)
            first = _with_hydra(experiment.config, [*fixed, *(axis[0] for axis in axes)])
    folder = Path(str(first.hydra.sweep.dir if is_sweep else first.hydra.run.dir))
    hydra = first.hydra
    has_numbers = is_sweep and _text(hydra.sweep, "subdir") == BY_NUMBER
    points = []
    for number, own in enumerate(itertools.product(*axes)):
        words = (*fixed, *own)
        directory = folder
        if is_sweep:
            directory /= str(number) if has_numbers else _subfolder(experiment.config, words, number)
            _refuse_outside(directory, folder)
        points.append(Point(number, tuple(own) if is_sweep else words, words, directory))
    return Command(experiment, is_sweep, is_search, folder, hydra, without_hydra(first), tuple(points))


def checked_command(experiment: Experiment, overrides: Sequence[str], *, is_multirun: bool) -> Command:
    """The points of a command line, each checked, so that a bad one is refused before the first has started.

    Of very many the first are. One that is finished is not: it will not run.

    Raises:
        LabError: for what the user can fix.
    """
    command = command_of(experiment, overrides, is_multirun=is_multirun)
    if not command.is_elsewhere:
        refuse_unwritable_folder(command.folder)
        refuse_links(command.folder, _folders_of_points(command))
    is_grid = command.is_sweep and not command.is_search
    finished = frozenset(point.number for point in command.points if is_grid and command.is_finished(point))
    checked = [point for point in command.points[:MOST_CHECKED] if point.number not in finished]
    return replace(command, finished=finished, needs={point.number: command.check(point) for point in checked})


def _folders_of_points(command: Command) -> Sequence[Path]:
    """Where the points of a sweep write; those of a search are numbered when they are chosen."""
    if command.is_search:
        return [path for path in command.folder.glob("*") if path.name.isdecimal()]
    return [point.directory for point in command.points] if command.is_sweep else []


def _is_search(overrides: Sequence[str]) -> bool:
    """Whether the overrides choose the sweeper that chooses points; an interval has no list of values."""
    return any(word.lstrip("+") == "hydra/sweeper=optuna" for word in overrides)


def _with_hydra(config: str, words: Sequence[str]) -> Any:
    return composed(config, words, return_hydra_config=True)


def _refuse_no_directory(first: Any, *, is_sweep: bool) -> None:
    """An empty name would mean the working folder, and runs in it would be one."""
    key = "sweep" if is_sweep else "run"
    directory = first.hydra[key].dir
    if directory is None or not str(directory).strip():
        raise ConfigError(f"hydra.{key}.dir={directory!r} is empty; give it a folder, or leave it out")


def _refuse_outside(directory: Path, folder: Path) -> None:
    """A point elsewhere would not be found with its sweep, and one in the sweep's own folder hides the others."""
    if Path(os.path.normpath(folder)) not in Path(os.path.normpath(directory)).parents:
        raise ConfigError(
            f"hydra.sweep.subdir: {directory} is not below {folder}, the folder of the sweep; give the name of a folder"
        )


def _text(node: Any, key: str) -> str:
    """A value as it is written, without what its interpolations give."""
    from omegaconf import OmegaConf

    tree = OmegaConf.to_container(node, resolve=False)
    assert isinstance(tree, dict), "a part of Hydra's configuration"
    return str(tree[key])


def _subfolder(config: str, words: Sequence[str], number: int) -> str:
    """The folder of a point that is named otherwise than by its number."""
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import open_dict

    found = _with_hydra(config, words)
    with open_dict(found.hydra.job):
        found.hydra.job.num = number
    holder = HydraConfig.instance()
    before = holder.cfg
    holder.set_config(found)
    try:
        return str(found.hydra.sweep.subdir)
    finally:
        holder.cfg = before
