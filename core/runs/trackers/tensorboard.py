"""TensorBoard's event files, in the run's folder tensorboard/: `tensorboard --logdir RUN`."""

import json
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from lab.core.runs.track import fresh_folder

# what is written is seen by a TensorBoard that looks at a run that goes on
_FLUSH_S = 5.0


class Tracker:
    """Writes one event file: here, and not in a thread as EventFileWriter does, whose errors are printed by Python."""

    def open(self, run: Path, config: Mapping[str, object]) -> None:
        """See `core.runs.track.Tracker`."""
        folder = fresh_folder(run, "tensorboard")
        (folder / "config.json").write_text(json.dumps(config, indent=2, default=str))
        self._file = event_file(folder)
        self._writer = RecordWriter(self._file)
        self._flushed = time.monotonic()
        self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))

    def log(self, values: Mapping[str, float], step: int, unit: str) -> None:
        """See `core.runs.track.Tracker`."""
        summary = Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()])
        self._write(Event(wall_time=time.time(), step=step, summary=summary))
        if time.monotonic() > self._flushed + _FLUSH_S:
            self._file.flush()
            self._flushed = time.monotonic()

    def close(self) -> None:
        """See `core.runs.track.Tracker`."""
        self._file.close()

    def _write(self, event: Event) -> None:
        self._writer.write(event.SerializeToString())


def event_file(folder: Path) -> IO[bytes]:
    """A new file with a name by which TensorBoard finds it."""
    return (folder / f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.0").open("wb")
