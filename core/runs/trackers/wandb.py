"""Weights & Biases, offline unless WANDB_MODE says otherwise, in the run's folder wandb/: `wandb sync RUN/wandb/…`."""

import os
from collections.abc import Mapping
from pathlib import Path

import wandb

from lab.core.runs.track import fresh_folder


class Tracker:
    """One run of the project `lab` (WANDB_PROJECT); WANDB_DIR puts it elsewhere."""

    def open(self, run: Path, config: Mapping[str, object]) -> None:
        """See `core.runs.track.Tracker`."""
        folder = os.environ.get("WANDB_DIR") or fresh_folder(run, "wandb").parent
        # W&B reports errors of its programs to a server, offline too
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "lab"),
            name=run.name,
            dir=folder,
            config=dict(config),
            mode=os.environ.get("WANDB_MODE", "offline"),
            settings=wandb.Settings(silent=True, console="off", disable_git=True, save_code=False),
        )
        self._units: set[str] = set()

    def log(self, values: Mapping[str, float], step: int, unit: str) -> None:
        """See `core.runs.track.Tracker`."""
        name = f"{unit}/step" if unit else "step"
        if unit not in self._units:
            # the steps of stages overlap, those of W&B may not
            self._run.define_metric(f"{unit}/*" if unit else "*", step_metric=name)
            self._units.add(unit)
        self._run.log({**values, name: step})

    def close(self) -> None:
        """See `core.runs.track.Tracker`."""
        self._run.finish()
