"""Finding a recorded run, and the command line that continues it."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

from lab.core.errors import RunError


def outputs_root() -> Path:
    """Where runs are recorded: LAB_OUTPUTS, or outputs/ in the working directory."""
    return Path(os.environ.get("LAB_OUTPUTS", "outputs"))


def run_directories(root: Path) -> list[Path]:
    """Every recorded run under `root`, the newest first; points of a sweep are runs of their own."""
    found = {path.parent for pattern in ("**/status.json", "**/config.json") for path in root.glob(pattern)}
    return sorted(
        found,
        key=lambda path: (path / "config.json").stat().st_mtime if (path / "config.json").exists() else 0,
        reverse=True,
    )


def find_run(name: str) -> Path:
    """The run that `name` means: a directory, or the end of a run's or sweep's name.

    Raises:
        RunError: if there is none, or more than one.
    """
    if not name:
        raise RunError("resume= and show need the name of a run; `lab runs` lists them")
    if Path(name).is_dir():
        return Path(name)
    folders = [path for pattern in ("*/runs/*", "*/sweeps/*", "reference/*/*") for path in outputs_root().glob(pattern)]
    matches = [path for path in folders if path.name.endswith(name)]
    if len(matches) == 1:
        return matches[0]
    if not matches:
        raise RunError(f"there is no run {name} under {outputs_root()}; `lab runs` lists them")
    raise RunError(
        f"{name} is the end of {len(matches)} runs, {matches[0].name} and {matches[1].name} among them; give more"
    )


def resumed(arguments: Sequence[str]) -> list[str]:
    """The command line with `resume=RUN` replaced by that run's own overrides and directory.

    Raises:
        RunError: if there is no such run, it was never started, or other overrides stand beside resume=.
    """
    names = [word.removeprefix("resume=") for word in arguments if word.startswith("resume=")]
    if not names:
        return list(arguments)
    others = [word for word in arguments if not word.startswith("resume=")]
    directory = find_run(names[-1])
    is_sweep = (directory / "multirun.yaml").exists()
    overrides = _sweep_overrides(directory) if is_sweep else _run_overrides(directory)
    for word in others:
        if word not in overrides:
            raise RunError(
                f"{word} beside resume={names[-1]}: a run goes on as it was begun; leave it out, or start anew"
            )
    if is_sweep:
        return ["--multirun", *overrides, f"hydra.sweep.dir={directory}"]
    return [*overrides, f"hydra.run.dir={directory}"]


def _run_overrides(directory: Path) -> list[str]:
    path = directory / "overrides.json"
    try:
        overrides = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise RunError(f"{path} is missing or damaged, so that {directory} cannot go on; start a new run") from error
    if not isinstance(overrides, list) or not all(isinstance(word, str) for word in overrides):
        raise RunError(f"{path} is damaged: it must list overrides; start a new run")
    return overrides


def _sweep_overrides(directory: Path) -> list[str]:
    from omegaconf import OmegaConf

    try:
        recorded = OmegaConf.load(directory / "multirun.yaml")
        return [str(word) for word in recorded.hydra.overrides.task]
    except (OSError, AttributeError) as error:
        raise RunError(f"{directory}/multirun.yaml is damaged; start the sweep anew") from error
