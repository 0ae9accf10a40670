"""Work beside the training: one thing at a time, whose error ends the training."""

import threading
from collections.abc import Callable


class Background:
    """A thread for each thing that is started, after the one before has ended."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def start(self, work: Callable[[], None]) -> None:
        """Begin; waits for what was started before.

        Raises:
            BaseException: what that has raised.
        """
        self.finish()
        self._thread = threading.Thread(target=self._do, args=(work,), name="background")
        self._thread.start()

    def finish(self) -> None:
        """Wait for what was started.

        Raises:
            BaseException: what it has raised.
        """
        self.abandon()
        error, self._error = self._error, None
        if error is not None:
            raise error

    def abandon(self) -> None:
        """Wait for what was started; an error is lost, since another one is on its way."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _do(self, work: Callable[[], None]) -> None:
        try:
            work()
        # whatever it is, the main thread ends with it
        except BaseException as error:
            self._error = error
