"""The process that makes batches ahead of another one; `prefetch` starts it. It needs neither torch nor a model."""

import logging
import pickle
import traceback
from dataclasses import dataclass
from logging.handlers import QueueHandler
from multiprocessing.connection import Connection
from queue import SimpleQueue

from lab.core.data.sample import BatchArrays
from lab.core.data.stream import Arrays
from lab.core.errors import LabError, RunError
from lab.core.processes import end_with


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be made: the batches of a stream from its position on, and from which level on its log is wanted."""

    stream: Arrays
    log_level: int


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
    end_with(parent)
    connection = Connection(descriptor)
    try:
        content = connection.recv_bytes()
        try:
            order = pickle.loads(content)
        # whatever the classes of a source raise
        except Exception as error:
            refusal = RunError(f"a separate process cannot read the data source ({error}); write loader=inline")
            connection.send_bytes(pickle.dumps(refusal))
            return
        assert isinstance(order, Order), "the other end is `prefetch`"
        _make(order, connection)
    except (EOFError, ConnectionError):
        # the parent needs no more
        return


def _make(order: Order, connection: Connection) -> None:
    records = SimpleQueue[logging.LogRecord]()
    logging.basicConfig(level=order.log_level, handlers=[QueueHandler(records)], format="%(message)s", force=True)
    while True:
        content: BatchArrays | Exception
        try:
            content = order.stream.next_arrays()
        # a bug too is an error of the process that reads the batch
        except Exception as error:
            content = _portable(error)
        made = Made(content, order.stream.state, [records.get() for _ in range(records.qsize())])
        # waits while the parent has enough
        connection.send_bytes(pickle.dumps(made, pickle.HIGHEST_PROTOCOL))


def _portable(error: Exception) -> Exception:
    """The error as one that can be sent; with the place where it was raised, unless its line tells the user enough."""
    if isinstance(error, LabError):
        return error
    place = traceback.format_exc()
    try:
        pickle.loads(pickle.dumps(error))
    # whatever its class raises
    except Exception:
        error = RuntimeError(f"{type(error).__name__}: {error}")
    error.add_note(f"raised in the process that makes the batches:\n{place}")
    return error
