"""TensorBoard's event files, in the run's folder tensorboard/: `tensorboard --logdir RUN`."""

import json
import time
from collections.abc import Mapping
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from lab.core.runs.track import fresh_folder


class Tracker:
    """Writes one event file."""

    def open(self, run: Path, config: Mapping[str, object]) -> None:
        """See `core.runs.track.Tracker`."""
        folder = fresh_folder(run, "tensorboard")
        self._writer = EventFileWriter(str(folder))
        (folder / "config.json").write_text(json.dumps(config, indent=2, default=str))

    def log(self, values: Mapping[str, float], step: int, unit: str) -> None:
        """See `core.runs.track.Tracker`."""
        summary = Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()])
        self._writer.add_event(Event(wall_time=time.time(), step=step, summary=summary))

    def close(self) -> None:
        """See `core.runs.track.Tracker`."""
        self._writer.close()
