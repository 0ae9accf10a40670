"""Processes that work for another one: they end with it, however that ends, and are missed when they are stopped."""

import ctypes
import os
import signal
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

_SECONDS = 0.5
# of prctl(2)
_PR_SET_PDEATHSIG = 1
# looks, one a second, at which a process is stopped before it is given up: what stops all processes of a command lets
# them go on one after the other
_LOOKS = 10


def end_with(parent: int) -> None:
    """From now on, exit soon after the process that started this one has ended; on Linux at once, even if stopped."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_SECONDS)
    os._exit(1)


class Patience:
    """How long processes are waited for that somebody has stopped: without it, for ever and without a word.

    Attributes:
        seconds: between two looks.
    """

    seconds = 1.0

    def __init__(self) -> None:
        self._looks = 0

    def lost(self, processes: Iterable[int | None]) -> int | None:
        """The id of one that has been stopped for too long; asked after each wait in which nothing came."""
        stopped = next((process for process in processes if process is not None and state_of(process) == "T"), None)
        self._looks = 0 if stopped is None else self._looks + 1
        return stopped if self._looks >= _LOOKS else None


def state_of(process: int) -> str | None:
    """The letter that Linux has for the state of a process, such as T for stopped; None if there is none."""
    with suppress(OSError, IndexError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    return None
