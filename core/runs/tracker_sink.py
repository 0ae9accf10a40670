"""A tracker as a sink: a process that reads the run's metrics.jsonl and can neither hold up nor end the run."""

import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from lab.core.errors import RunError
from lab.core.runs.atomic_files import refuse_special
from lab.core.runs.signals import blocked
from lab.core.streams import say

# for what is left when the run has ended, and how much of it passes without a word
_PATIENCE_S, _SILENT_S = 30.0, 3.0


class TrackerSink:
    """Starts `core.runs.track` for one tracker; what that prints goes to NAME.log in the run's directory."""

    def __init__(self, name: str) -> None:
        self._name = name

    def open(self, run: Path) -> None:
        """Start the process; it reads all rows from the first one on.

        Raises:
            RunError: if its log is a pipe or a device.
            OSError: if its log is a link or cannot be written, or no process can be started.
        """
        self._log = run / f"{self._name}.log"
        refuse_special(self._log, RunError)
        # no link: in a run folder from somebody else it could lead to any file of the user's
        handle = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o666)
        # signals are for the run, which then says that it has ended
        with open(handle, "wb") as log, blocked():
            self._process = subprocess.Popen(
                # -P: no file of the working folder is taken for a module
                [sys.executable, "-P", "-m", "lab.core.runs.track", str(run.absolute()), self._name],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def row(self, row: Mapping[str, object]) -> None:
        """Nothing to do: the process finds it in metrics.jsonl.

        Raises:
            RunError: if the process has ended.
        """
        if self._process.poll() is not None:
            self.close()
            raise RunError(f"its process ended, see {self._log}")

    def close(self) -> None:
        """Tell the process that no more rows come, and wait for it to write what is left, but not for long.

        Raises:
            RunError: if it failed, or has not ended.
        """
        assert self._process.stdin is not None, "it was asked for"
        self._process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_SILENT_S)
        if self._process.poll() is None:
            say(f"{self._name} writes what is left; it is waited for up to {_PATIENCE_S:g} s")
        try:
            self._process.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            raise RunError(f"its process {self._process.pid} has not ended, see {self._log}") from None
        if self._process.returncode:
            raise RunError(f"its process ended with exit code {self._process.returncode}, see {self._log}")
