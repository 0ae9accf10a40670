"""Standard output and error that cannot end a run: where they are closed, full or read no more, work goes on."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any, TextIO, cast

from lab.core.errors import RunError
from lab.core.printable import printable


class SteadyStream:
    """A stream that takes everything; from the first write that fails on, what it takes is lost.

    Attributes:
        failure: the first error; None if everything was written.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self.failure: OSError | None = None if stream is not None else OSError("it is closed")

    def write(self, text: str) -> int:
        """Write, as far as that is possible."""
        if self.failure is None:
            assert self._stream is not None, "a stream that is missing has failed"
            try:
                return self._stream.write(text)
            except OSError as error:
                self._give_up(error)
        return len(text)

    def flush(self) -> None:
        """Flush, as far as that is possible."""
        if self.failure is None:
            assert self._stream is not None, "a stream that is missing has failed"
            try:
                self._stream.flush()
            except OSError as error:
                self._give_up(error)

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return self.failure is None and self._stream is not None and self._stream.isatty()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _give_up(self, error: OSError) -> None:
        """Lead the file descriptor nowhere: what is buffered would fail again when the interpreter ends."""
        self.failure = error
        assert self._stream is not None, "it has just failed"
        with suppress(OSError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)
            self._stream.flush()


def steady_streams() -> None:
    """From now on, printing and logging cannot fail. What a locale has no letters for is written as its number."""
    # a descriptor that is closed would be given to the next file, which then received what is printed
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            # the lowest that is free
            os.open(os.devnull, os.O_RDWR)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, SteadyStream):
            continue
        if getattr(stream, "errors", None) == "strict":
            stream.reconfigure(errors="backslashreplace")
        setattr(sys, name, cast("TextIO", SteadyStream(stream)))
    # logging would print a traceback for each line of a log that cannot be written
    logging.raiseExceptions = False


@contextmanager
def printed(*, is_also_written: bool = False) -> Iterator[None]:
    """A command whose result is what it prints: it fails if that could not be printed.

    A reader that went away, as `head` does, has read what it wanted.

    Args:
        is_also_written: whether a file holds the result too.

    Raises:
        RunError: with the reason.
    """
    yield
    stream = sys.stdout
    if not isinstance(stream, SteadyStream):
        return
    stream.flush()
    if stream.failure is not None and not isinstance(stream.failure, BrokenPipeError) and not is_also_written:
        reason = stream.failure.strerror or stream.failure
        raise RunError(f"standard output cannot be written: {reason}; give it another place")


_is_muted = False


def mute() -> None:
    """From now on, `say` prints nothing in this process: another process of the run does."""
    global _is_muted
    _is_muted = True


def say(line: str, *, is_last: bool = False) -> None:
    """One line on standard error, also while a signal interrupts another write; lost if that cannot be written.

    Args:
        line: what is said.
        is_last: whether it is why the process ends, which is said by muted ones too.
    """
    if _is_muted and not is_last:
        return
    text = f"lab: {printable(line)}\n"
    with suppress(OSError):
        try:
            print(text, end="", file=sys.stderr)
        except RuntimeError:
            # Python refuses to write into a write
            os.write(2, text.encode())


@cache
def say_once(line: str) -> None:
    """As `say`, but the same line once in a process, however often it is found out."""
    say(line)
