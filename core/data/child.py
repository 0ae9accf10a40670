"""A process that makes data for this one, and answers on a socket: how it is started, and how it takes its order."""

import logging
import os
import pickle
import subprocess
import sys
import traceback
from collections.abc import Callable
from logging.handlers import QueueHandler
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Protocol, TypeVar

from lab.core.errors import LabError, RunError
from lab.core.processes import end_with
from lab.core.runs.signals import blocked

FIX = "write loader=inline loader_processes=1 to make the batches between the steps"

# the search path first: the process finds the package, and the classes of a source, where this one did
_PROGRAM = """\
import sys
sys.path[:] = {path!r}
from {module} import {name}
{name}({descriptor}, {parent})
"""


def started(theirs: Connection, module: str, name: str) -> "subprocess.Popen[bytes]":
    """A process that calls a function with its end of a socket, and with the id of this process.

    Args:
        theirs: the end.
        module: of the function.
        name: of the function.

    Raises:
        RunError: if none can be started.
    """
    # one thread: BLAS and the like have nothing to do there
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    program = _PROGRAM.format(path=sys.path, module=module, name=name, descriptor=theirs.fileno(), parent=os.getpid())
    try:
        with blocked():
            return subprocess.Popen(
                [sys.executable, "-c", program],
                env={**os.environ, **threads},
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
    except OSError as error:
        raise RunError(f"no process can be started for the batches ({error.strerror}); {FIX}") from error


class Order(Protocol):
    """What a process is to make.

    Attributes:
        log_level: from which its log is wanted.
    """

    @property
    def log_level(self) -> int:
        """See above."""
        ...


_Order = TypeVar("_Order", bound=Order)
Logged = Callable[[], list[logging.LogRecord]]


def obey(descriptor: int, parent: int, kind: type[_Order], make: Callable[[_Order, Connection, Logged], None]) -> None:
    """What a started process does: receive its order, and make, until the parent closes its end or is gone.

    Args:
        descriptor: of the socket on which the order comes and answers go, pickled; a RunError in their place if the
            order cannot be read.
        parent: id of the process that started this one.
        kind: of the order.
        make: is given the order, the socket, and a function that returns what was logged since its last call.
    """
    end_with(parent)
    connection = Connection(descriptor)
    try:
        content = connection.recv_bytes()
        try:
            order = pickle.loads(content)
        # whatever the classes of a source raise
        except Exception as error:
            refusal = RunError(f"a separate process cannot read the data source ({error}); {FIX}")
            connection.send_bytes(pickle.dumps(refusal))
            return
        assert isinstance(order, kind), "the other end sends it first"
        records = SimpleQueue[logging.LogRecord]()
        logging.basicConfig(level=order.log_level, handlers=[QueueHandler(records)], format="%(message)s", force=True)
        make(order, connection, lambda: [records.get() for _ in range(records.qsize())])
    except (EOFError, ConnectionError):
        # the parent needs no more
        return


def packed(content: object) -> bytes:
    """What another process is to read, a source among it.

    Raises:
        RunError: if it cannot be sent.
    """
    try:
        return pickle.dumps(content, pickle.HIGHEST_PROTOCOL)
    # whatever the classes of a source raise
    except Exception as error:
        raise RunError(f"the data source cannot be sent to a separate process ({error}); {FIX}") from error


def portable(error: Exception) -> Exception:
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
