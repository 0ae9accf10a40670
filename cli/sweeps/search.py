"""`hydra/sweeper=optuna`: a search whose study is on disk in the sweep's folder, so that it survives a kill.

Optuna chooses the points, and the plugin counts its trials from 0 each time. Here the trials of earlier commands count,
those that were cut off are asked for again, and each point has the folder in which it was begun.
"""

import logging
import os
import warnings
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lab.cli.resume import SEARCH, quoted
from lab.cli.sweeps.launching import Launch
from lab.cli.sweeps.points import Command
from lab.core.errors import ConfigError, RunError
from lab.core.runs.find import is_open
from lab.core.runs.json_files import read_json
from lab.core.streams import say

_STUDY = "lab"


def refuse_missing_plugin(words: Sequence[str]) -> None:
    """Refuse a search where the plugin is not installed.

    Raises:
        ConfigError: with the command that installs it.
    """
    asks = any(word.lstrip("+") == "hydra/sweeper=optuna" for word in words)
    if asks and find_spec("hydra_plugins.hydra_optuna_sweeper") is None:
        raise ConfigError("hydra/sweeper=optuna: the plugin is not installed; type pip install -e '.[optuna]'")


def search_overrides(command: Command) -> list[str]:
    """Overrides with which the plugin goes on with a study: where it is, and how many trials are left.

    Trials that were cut off are recorded as failed, and their parameters asked for again.

    Raises:
        RunError: if a point is running.
    """
    # of a version of SQLAlchemy that the plugin needs, to whoever could choose another
    os.environ.setdefault("SQLALCHEMY_SILENCE_UBER_WARNING", "1")
    import optuna

    sweeper = command.hydra.sweeper
    storage, name = sweeper.storage, sweeper.study_name or _STUDY
    if storage is None:
        command.folder.mkdir(parents=True, exist_ok=True)
        storage = f"sqlite:///{command.folder.absolute() / SEARCH}"
    for point in _begun(command.folder):
        if is_open(point):
            raise RunError(f"{point} is running; wait for it, or end it, and type the command again")
    optuna.logging.set_verbosity(logging.WARNING)
    directions = [str(getattr(one, "name", one)) for one in _listed(sweeper.direction)]
    study = optuna.create_study(study_name=name, storage=storage, directions=directions, load_if_exists=True)
    states = optuna.trial.TrialState
    for trial in study.get_trials(states=(states.RUNNING,)):
        study.tell(trial.number, state=states.FAIL)
        if trial.params:
            with warnings.catch_warnings():
                # optuna calls it experimental
                warnings.simplefilter("ignore")
                study.enqueue_trial(trial.params)
    num_done = len(study.get_trials(states=(states.COMPLETE,)))
    left = max(0, sweeper.n_trials - num_done)
    if num_done:
        say(f"{num_done} of {sweeper.n_trials} trials are done; {left} are left")
    words = [f"hydra.sweeper.storage={quoted(storage)}", f"hydra.sweeper.study_name={quoted(name)}"]
    seed = (sweeper.get("sampler") or {}).get("seed")
    if seed is not None and num_done:
        # its random numbers begin again: with the same seed it would choose the first points once more
        words.append(f"hydra.sweeper.sampler.seed={seed + len(study.trials)}")
    return [*words, f"hydra.sweeper.n_trials={left}"]


def in_own_folders(command: Command) -> Callable[[Any, Launch], Launch]:
    """A layer that gives each point the folder in which it was begun, or the next number."""

    def layer(launcher: Any, launch: Launch) -> Launch:
        def placed(job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[Any]:
            begun = {_overrides(point): point.name for point in _begun(command.folder)}
            following = max((int(name) for name in begun.values()), default=-1) + 1
            words = []
            for own in job_overrides:
                name = begun.setdefault(tuple(own), str(following))
                following = max(following, int(name) + 1)
                words.append([*own, f"hydra.sweep.subdir={quoted(name)}"])
            return launch(words, initial_job_idx)

        return placed

    return layer


def _begun(folder: Path) -> list[Path]:
    """The points of a search, those that were begun last first."""
    points = [path.parent for path in folder.glob("*/overrides.json") if path.parent.name.isdecimal()]
    return sorted(points, key=lambda path: int(path.name), reverse=True)


def _overrides(point: Path) -> tuple[str, ...]:
    content = read_json(point / "overrides.json", hint="remove the folder, and the point is computed again")
    return tuple(map(str, content)) if isinstance(content, list) else ()


def _listed(direction: Any) -> list[Any]:
    from omegaconf import ListConfig

    return list(direction) if isinstance(direction, list | ListConfig) else [direction]
