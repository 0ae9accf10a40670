"""Stopping at a step boundary: a signal is noted on arrival, and passed on once everything is written."""

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Self

from lab.core.runs.early_signals import SIGNALS
from lab.core.runs.signals import Handler
from lab.core.streams import say


class Interruption:
    """Defers signals until `pass_on()`; Ctrl-C after another signal is passed on at once."""

    def __init__(self, *, is_on: bool = True, is_in_vain: Callable[[], bool] = lambda: False) -> None:
        """Nothing is deferred yet.

        Args:
            is_on: whether anything will be; of several processes, the first answers for all.
            is_in_vain: whether the step cannot be finished, so that a signal is passed on at once.
        """
        self._is_on = is_on
        self._is_in_vain = is_in_vain
        self._handlers: dict[int, Handler] = {}
        self._received: list[int] = []

    @property
    def is_requested(self) -> bool:
        """Whether a signal has arrived."""
        return bool(self._received)

    def __enter__(self) -> Self:
        # only the main thread receives signals and may set handlers
        if self._is_on and threading.current_thread() is threading.main_thread():
            self._defer()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._restore()

    def pass_on(self) -> None:
        """Pass deferred signals to their previous handlers, in the order of arrival; if these return, work goes on.

        Raises:
            KeyboardInterrupt: for a signal that had no handler.
        """
        if not self._received:
            return
        received, self._received = self._received, []
        self._restore()
        for number in received:
            self._pass(number)
        self._defer()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if (self._received and number == signal.SIGINT) or self._is_in_vain():
            self._pass(number)
        elif number not in self._received:
            self._received.append(number)
            name = signal.Signals(number).name
            say(f"{name}: finishing this step and writing a checkpoint first; another Ctrl-C ends it at once")

    def _pass(self, number: int) -> None:
        handler = self._handlers[number]
        if not callable(handler):
            raise KeyboardInterrupt
        handler(number, None)

    def _defer(self) -> None:
        for number in SIGNALS:
            handler = signal.getsignal(number)
            # a signal that is ignored stays so, and one that is not handled from Python cannot be passed on
            if handler is not None and handler != signal.SIG_IGN:
                self._handlers[number] = signal.signal(number, self._note)

    def _restore(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
