"""Finding recorded runs."""

import os
from pathlib import Path

from lab.core.errors import RunError


def outputs_root() -> Path:
    """Where runs are recorded: LAB_OUTPUTS, or outputs/ in the working directory."""
    return Path(os.environ.get("LAB_OUTPUTS", "outputs"))


def run_directories(root: Path) -> list[Path]:
    """Every recorded run under `root`, the newest first; points of a sweep are runs of their own."""
    found = {path.parent for pattern in ("**/status.json", "**/overrides.json") for path in root.glob(pattern)}
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
        raise RunError("resume=, show, export and generate need the name of a run; `lab runs` lists them")
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
