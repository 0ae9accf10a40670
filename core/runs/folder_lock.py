"""The lock of a run's folder, which keeps a second process out."""

import fcntl
import os
import time
from pathlib import Path
from typing import IO

from lab.core.errors import RunError
from lab.core.runs.atomic_files import as_run_error, refuse_special

# for a folder that `lab runs` looks at: half a second
_TRIES, _PAUSE_S = 11, 0.05


def locked(directory: Path) -> IO[str]:
    """The lock of a run's folder, held until the file that is returned is closed; the folder is made if need be.

    Raises:
        RunError: if the folder cannot be written, another process holds the lock, or the file system has none.
    """
    path = directory / ".lock"
    refuse_special(path, RunError)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        # no link: it would make a file elsewhere
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        file = open(handle, "a")  # noqa: SIM115  (held open until the run is left)
    except OSError as error:
        raise as_run_error(error, path) from error
    try:
        # the kernel releases the lock when the process ends, however it ends
        _take(file)
    except BlockingIOError as error:
        file.close()
        raise RunError(f"{directory} is open in another process; wait for it, or start a new run") from error
    except OSError as error:
        file.close()
        raise as_run_error(error, directory) from error
    return file


def _take(file: IO[str]) -> None:
    """Take the lock of a file; whoever asks `is_open` holds it for a moment, which is waited for."""
    for left in reversed(range(_TRIES)):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if not left:
                raise
        time.sleep(_PAUSE_S)
