"""Trackio, in the run's folder trackio/ unless TRACKIO_DIR says otherwise: `TRACKIO_DIR=RUN/trackio trackio show`."""

import os
from collections.abc import Mapping
from pathlib import Path

from lab.core.runs.track import fresh_folder


class Tracker:
    """One run of the project `lab`."""

    def open(self, run: Path, config: Mapping[str, object]) -> None:
        """See `core.runs.track.Tracker`."""
        if "TRACKIO_DIR" not in os.environ:
            os.environ["TRACKIO_DIR"] = str(fresh_folder(run, "trackio"))
        # it reads the variable while it is imported
        import trackio  # noqa: PLC0415

        self._run = trackio.init(project="lab", name=run.name, config=dict(config), embed=False)

    def log(self, values: Mapping[str, float], step: int, unit: str) -> None:
        """See `core.runs.track.Tracker`."""
        self._run.log({**values, f"{unit}/step" if unit else "step": step})

    def close(self) -> None:
        """See `core.runs.track.Tracker`."""
        self._run.finish()
