"""Samples that several processes make for the one that makes the batches: those of the source, whoever made them.

Which samples come next is only a guess: those behind a sample that is left out move up. What nobody reads is dropped,
and what nobody has made is made when it is read.
"""

import logging
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe
from types import TracebackType
from typing import Protocol, Self, runtime_checkable

from lab.core.data.bad_samples import Place, Placed
from lab.core.data.child import FIX, Logged, obey, packed, portable, started
from lab.core.data.sample import Sample
from lab.core.errors import RunError
from lab.core.processes import Patience

# samples that each process may have been asked for
_EACH = 2


class _Source(Protocol):
    """See `stream.Source`."""

    def __getitem__(self, index: int) -> Sample: ...


@runtime_checkable
class Expecting(Protocol):
    """A source that is told which samples come next.

    Attributes:
        num_expected: how many of them it wants to know.
    """

    num_expected: int

    def expect(self, upcoming: Sequence[int]) -> None:
        """The next samples, in order; the first one is read now."""
        ...


@dataclass(frozen=True, slots=True)
class _Order:
    source: _Source
    log_level: int


@dataclass(frozen=True, slots=True)
class _Made:
    """A sample, or the error in its place, and what was logged on the way."""

    index: int
    content: Sample | Exception
    log: list[logging.LogRecord]


class ReadAhead:
    """A source of which this process and others make samples in turn: a context, at whose end the others are gone.

    They end with this process too.

    Attributes:
        num_expected: see `Expecting`.
    """

    def __init__(self, source: _Source, *, processes: int) -> None:
        """Start the others.

        Args:
            source: one that can be pickled.
            processes: how many make samples, this one among them.

        Raises:
            RunError: if one cannot be started, or the source cannot be sent.
        """
        self._source = source
        order = packed(_Order(source, logging.getLogger("lab").getEffectiveLevel()))
        self._helpers = [_Helper(order) for _ in range(processes - 1)]
        self.num_expected = _EACH * processes
        # of each sample that is expected and not read yet; None: this process
        self._owners: dict[int, _Helper | None] = {}
        self._turn = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for helper in self._helpers:
            helper.close()

    def __getitem__(self, index: int) -> Sample:
        """Sample `index`.

        Raises:
            InputError: as the source.
            RunError: if the process that makes it was killed, stopped, or cannot read the source.
        """
        helper = self._owners.pop(index, None)
        return self._source[index] if helper is None else helper.take(index)

    def place(self, index: int) -> Place:
        """Where a sample is."""
        return self._source.place(index) if isinstance(self._source, Placed) else Place("", index + 1)

    def expect(self, upcoming: Sequence[int]) -> None:
        """See `Expecting.expect`."""
        for index in self._owners.keys() - set(upcoming):
            helper = self._owners.pop(index)
            if helper is not None:
                helper.drop(index)
        for index in upcoming:
            if index not in self._owners:
                helper = ([None, *self._helpers])[self._turn]
                self._turn = (self._turn + 1) % (1 + len(self._helpers))
                self._owners[index] = helper
                if helper is not None:
                    helper.ask(index)


class _Helper:
    """One of the other processes, and what it was asked for."""

    def __init__(self, order: bytes) -> None:
        self._connection, theirs = Pipe()
        with theirs:
            self._process = started(theirs, __name__, serve_samples.__name__)
        self._connection.send_bytes(order)
        self._dropped: list[int] = []
        self._ready: dict[int, _Made] = {}

    def ask(self, index: int) -> None:
        """Ask for a sample, behind those that it was asked for before."""
        try:
            self._connection.send(index)
        except OSError as error:
            raise self._lost(error) from error

    def drop(self, index: int) -> None:
        """Do without a sample."""
        if self._ready.pop(index, None) is None:
            self._dropped.append(index)

    def close(self) -> None:
        """End the process at once: it keeps nothing."""
        self._process.kill()
        self._connection.close()
        self._process.wait()

    def take(self, index: int) -> Sample:
        """A sample that it was asked for; waits for it."""
        while index not in self._ready:
            self._receive()
        made = self._ready.pop(index)
        for record in made.log:
            logging.getLogger(record.name).handle(record)
        if isinstance(made.content, Exception):
            raise made.content
        return made.content

    def _receive(self) -> None:
        patience = Patience()
        try:
            while not self._connection.poll(patience.seconds):
                if patience.lost([self._process.pid]) is not None:
                    raise RunError(
                        f"a process that makes samples ({self._process.pid}) was stopped and does not go on; "
                        f"resume=RUN starts another, or {FIX}"
                    )
            made = pickle.loads(self._connection.recv_bytes())
        except (EOFError, OSError) as error:
            raise self._lost(error) from error
        if isinstance(made, RunError):
            raise made
        assert isinstance(made, _Made), "the other end is `serve_samples`"
        if made.index in self._dropped:
            self._dropped.remove(made.index)
        else:
            self._ready[made.index] = made

    def _lost(self, error: Exception) -> RunError:
        return RunError(
            f"a process that makes samples ({self._process.pid}) ended ({type(error).__name__}); free some memory if "
            f"it ran out, or {FIX}"
        )


def serve_samples(descriptor: int, parent: int) -> None:
    """Make the samples that are asked for, until the parent closes its end or is gone.

    Args:
        descriptor: of the socket on which an order and then indices come, and samples go.
        parent: id of the process that started this one.
    """
    obey(descriptor, parent, _Order, _make)


def _make(order: _Order, connection: Connection, logged: Logged) -> None:
    while True:
        index = connection.recv()
        made: Sample | Exception
        try:
            made = order.source[index]
        # a bug too is an error of the process that reads the sample
        except Exception as error:
            made = portable(error)
        connection.send_bytes(pickle.dumps(_Made(index, made, logged()), pickle.HIGHEST_PROTOCOL))
