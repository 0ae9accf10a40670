"""MLflow, in the run's folder mlflow/ unless MLFLOW_TRACKING_URI says otherwise: `mlflow ui --backend-store-uri …`."""

import os
import re
import time
from collections.abc import Mapping
from pathlib import Path

from lab.core.runs.track import fresh_folder

# it asks a server about its telemetry while it is imported
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

import mlflow
from mlflow.entities import Metric

# numbers that are sent together, and how long the first of them waits
_AT_ONCE, _LONGEST_WAIT_MS = 500, 5000


class Tracker:
    """One run of the experiment `lab` (MLFLOW_EXPERIMENT_NAME)."""

    def open(self, run: Path, config: Mapping[str, object]) -> None:
        """See `core.runs.track.Tracker`."""
        if "MLFLOW_TRACKING_URI" not in os.environ:
            mlflow.set_tracking_uri(f"sqlite:///{fresh_folder(run, 'mlflow').absolute() / 'mlflow.db'}")
        mlflow.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", "lab"))
        self._id = mlflow.start_run(run_name=run.name).info.run_id
        self._client = mlflow.MlflowClient()
        self._waiting: list[Metric] = []
        for key, value in config.items():
            self._client.set_tag(self._id, _named(key), str(value))

    def log(self, values: Mapping[str, float], step: int, unit: str) -> None:
        """See `core.runs.track.Tracker`."""
        now = int(time.time() * 1000)
        self._waiting += [Metric(_named(tag), value, now, step) for tag, value in values.items()]
        if len(self._waiting) >= _AT_ONCE or now - self._waiting[0].timestamp > _LONGEST_WAIT_MS:
            self._send()

    def close(self) -> None:
        """See `core.runs.track.Tracker`."""
        self._send()
        mlflow.end_run()

    def _send(self) -> None:
        while self._waiting:
            # its limit is 1,000; each call is a transaction of the database
            self._client.log_batch(self._id, metrics=self._waiting[:1000])
            self._waiting = self._waiting[1000:]


def _named(tag: str) -> str:
    """MLflow refuses other characters in names."""
    return re.sub(r"[^\w\-. /:]", "_", tag)
