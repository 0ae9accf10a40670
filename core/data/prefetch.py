"""Batches made ahead of the step in separate processes, identical to those of the stream."""

import logging
import pickle
import signal
import subprocess
import threading
from multiprocessing.connection import Pipe
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Self

from lab.core.data import prefetch_worker
from lab.core.data.batch import Batch, to_tensors
from lab.core.data.child import FIX, packed, started
from lab.core.data.prefetch_worker import Made, Order
from lab.core.data.stream import Arrays
from lab.core.errors import RunError
from lab.core.processes import Patience

# batches that wait in this process; one more is in the making, and on their way are as many as a socket holds: one, or
# some hundred kilobytes of small ones
DEPTH = 2


class Prefetched:
    """The batches of a stream, made ahead by a process that this one starts: a context, at whose end it is gone.

    Batches, their order, errors and log are those of the stream, whose position is that behind the last batch handed
    out, whatever was made ahead.
    """

    def __init__(self, stream: Arrays, *, depth: int = DEPTH, processes: int = 1) -> None:
        """Nothing is started yet.

        Args:
            stream: where batches come from; its source must be one that can be pickled. Read it here alone.
            depth: number of batches that wait in this process.
            processes: how many make samples for the batches, that which makes the batches among them.
        """
        self._stream = stream
        self._depth = depth
        self._processes = processes
        self._worker: _Worker | None = None

    def __enter__(self) -> Self:
        """Start making batches.

        Raises:
            RunError: as `next_batch`.
        """
        self._started()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def state(self) -> dict[str, int]:
        """The position behind the last batch that was handed out, as `Stream.state`."""
        return self._stream.state

    def restore(self, state: dict[str, int]) -> None:
        """Continue from a saved position; what was made ahead is dropped.

        Raises:
            CheckpointError: if it is not a position.
        """
        self._stream.restore(state)
        self.close()

    def next_batch(self) -> Batch:
        """The next batch; waits until it is made.

        Raises:
            InputError: as `Stream.next_batch`.
            RunError: if the process cannot be started, was killed, or cannot read the source.
        """
        made = self._started().take()
        if isinstance(made, RunError):
            self.close()
            raise made
        for record in made.log:
            logger = logging.getLogger(record.name)
            if logger.isEnabledFor(record.levelno):
                logger.handle(record)
        self._stream.restore(made.state)
        if isinstance(made.content, Exception):
            raise made.content
        return to_tensors(made.content)

    def close(self) -> None:
        """End the process, if there is one; the next batch starts another."""
        if self._worker is not None:
            self._worker.close()
            self._worker = None

    def _started(self) -> "_Worker":
        if self._worker is None:
            order = Order(self._stream, logging.getLogger("lab").getEffectiveLevel(), self._processes)
            self._worker = _Worker(order, self._depth)
        return self._worker


class _Worker:
    """A process and the thread that receives what it makes: the process is never held up by a step."""

    def __init__(self, order: Order, depth: int) -> None:
        content = packed(order)
        self._connection, theirs = Pipe()
        with theirs:
            self._process = started(theirs, prefetch_worker.__name__, prefetch_worker.serve.__name__)
        self._made: SimpleQueue[Made | RunError] = SimpleQueue()
        self._free = threading.Semaphore(depth)
        self._is_closed = False
        self._receiver = threading.Thread(target=self._receive, args=(content,), daemon=True)
        self._receiver.start()

    def take(self) -> Made | RunError:
        """What was made next; waits for it."""
        made, patience = None, Patience()
        while made is None:
            try:
                made = self._made.get(timeout=patience.seconds)
            except Empty:
                if patience.lost([self._process.pid]) is not None:
                    made = RunError(
                        f"the process that makes the batches ({self._process.pid}) was stopped and does not go on; "
                        f"resume=RUN starts another, or {FIX}"
                    )
        self._free.release()
        return made

    def close(self) -> None:
        """End the process at once: it keeps nothing."""
        self._is_closed = True
        self._process.kill()
        self._free.release()
        self._receiver.join()
        self._connection.close()
        self._process.wait()

    def _receive(self, order: bytes) -> None:
        try:
            self._connection.send_bytes(order)
            while True:
                self._free.acquire()
                if self._is_closed:
                    return
                made = pickle.loads(self._connection.recv_bytes())
                assert isinstance(made, Made | RunError), "the other end is `prefetch_worker`"
                self._made.put(made)
        # every end of this thread but a wanted one must reach the step, which would wait for ever
        except Exception as error:
            if not self._is_closed:
                self._made.put(RunError(self._why(error)))

    def _why(self, error: Exception) -> str:
        try:
            code = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return f"the process that makes the batches does not answer ({error!r}); {FIX}"
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        return f"the process that makes the batches {how}; free some memory if it ran out, or {FIX}"
