"""The process that makes batches ahead of another one; `prefetch` starts it. It needs neither torch nor a model."""

import logging
import pickle
from dataclasses import dataclass
from multiprocessing.connection import Connection

from lab.core.data.child import Logged, obey, portable
from lab.core.data.sample import BatchArrays
from lab.core.data.stream import Arrays
from lab.core.errors import RunError


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be made.

    Attributes:
        stream: whose batches, from its position on.
        log_level: from which its log is wanted.
        processes: how many make its samples.
    """

    stream: Arrays
    log_level: int
    processes: int = 1


@dataclass(frozen=True, slots=True)
class Made:
    """A batch, or the error in its place.

    Attributes:
        content: the batch as arrays, or what `Stream.next_arrays` raised.
        state: of the stream behind it.
        log: what was logged on the way.
    """

    content: BatchArrays | Exception
    state: dict[str, int]
    log: list[logging.LogRecord]


def serve(descriptor: int, parent: int) -> None:
    """Make batches and send them, until the parent closes its end or is gone.

    Args:
        descriptor: of the socket on which an `Order` comes and each `Made` goes, pickled; a RunError in its place if
            the order cannot be read.
        parent: id of the process that started this one.
    """
    obey(descriptor, parent, Order, _make)


def _make(order: Order, connection: Connection, logged: Logged) -> None:
    if order.processes > 1:
        try:
            order.stream.read_by_several(order.processes)
        except RunError as error:
            connection.send_bytes(pickle.dumps(error))
            return
    while True:
        content: BatchArrays | Exception
        try:
            content = order.stream.next_arrays()
        # a bug too is an error of the process that reads the batch
        except Exception as error:
            content = portable(error)
        made = Made(content, order.stream.state, logged())
        # waits while the parent has enough
        connection.send_bytes(pickle.dumps(made, pickle.HIGHEST_PROTOCOL))
