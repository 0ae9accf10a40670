"""Stopping at a step boundary: a signal is noted on arrival, and passed on once everything is written."""

import logging
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Self

_log = logging.getLogger(__name__)

# Ctrl-C; the end of a cluster job; the warning that Slurm and submitit send ahead of it
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)


class Interruption:
    """Defers the first termination signal until `pass_on()`; a second Ctrl-C ends at once."""

    def __init__(self) -> None:
        self._handlers: dict[int, Callable[[int, FrameType | None], object] | int | None] = {}
        self._received: int | None = None

    @property
    def is_requested(self) -> bool:
        """Whether a signal has arrived."""
        return self._received is not None

    def __enter__(self) -> Self:
        # only the main thread receives signals and may set handlers
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                self._handlers[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._restore()

    def pass_on(self) -> None:
        """Pass a deferred signal to its previous handler.

        Raises:
            KeyboardInterrupt: if it had none.
        """
        if self._received is None:
            return
        handler = self._handlers[self._received]
        self._restore()
        if callable(handler):
            handler(self._received, None)
        raise KeyboardInterrupt

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._received = number
        _log.info("%s: ending after this step", signal.Signals(number).name)

    def _restore(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
