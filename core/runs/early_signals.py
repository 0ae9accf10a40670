"""Signals before a command has begun, while its parts are imported: one line and exit code 130, as later on."""

import os
import signal
from contextlib import suppress
from types import FrameType

# Ctrl-C; the end of a cluster job; the warnings that are sent ahead of it
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)

INTERRUPTED = 130

_held: list[int] = []


def handle_early() -> None:
    """Handle what nobody handles yet, until `EndSignals` does."""
    for number in SIGNALS:
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, end_at_once)


def ignore_late() -> None:
    """Ignore Ctrl-C from now on: the command is done, and what remains is the end of the interpreter."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def end_at_once(number: int, frame: FrameType | None) -> None:
    """End the process: nothing was written and nothing started that would have to be ended first.

    In a Slurm job, only Ctrl-C ends it: the exit code of a job that is pre-empted decides whether it is requeued, so
    the command that begins answers the others.
    """
    if number != signal.SIGINT and os.environ.get("SLURM_JOB_ID"):
        _held.append(number)
        return
    with suppress(OSError):
        os.write(2, b"lab: interrupted\n")
    os._exit(INTERRUPTED)


def send_held() -> None:
    """Send again, to this process, what was held back."""
    while _held:
        os.kill(os.getpid(), _held.pop(0))
