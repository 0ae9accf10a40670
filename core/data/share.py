"""A process's share of the batches of a stream, so that several processes read what one alone would read.

A step of `num_total` batches is cut into as many runs of neighbours as there are processes. Which samples a batch holds
depends on those that were left out before it, which only the process knows that has read them. So each reads its run
as if none were left out, they compare where their runs end, and read again what began at the wrong sample.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from lab.core.data.bad_samples import LeftOut
from lab.core.data.sample import BatchArrays
from lab.core.data.stream import Batches, Stream

if TYPE_CHECKING:
    from lab.core.data.batch import Batch


class Share:
    """Some batches of a stream, then a jump over those of the other processes, and so on.

    It has the interface of a stream, so that `Prefetched` can read it in a separate process.

    Attributes:
        jump: samples that are jumped over.
    """

    def __init__(self, stream: Stream, *, num_batches: int, batch_size: int, jump: int) -> None:
        """Begin at the stream's position.

        Args:
            stream: read here alone.
            num_batches: to be read before each jump.
            batch_size: samples in a batch.
            jump: see the attribute.
        """
        self._stream = stream
        self._num_batches = num_batches
        self._batch_size = batch_size
        self.jump = jump
        self._num_read = 0

    @property
    def state(self) -> dict[str, int]:
        """The stream's, and the number of batches read since the last jump."""
        return {**self._stream.state, "num_read": self._num_read}

    def restore(self, state: dict[str, int]) -> None:
        """Continue from a saved position."""
        self._num_read = state["num_read"]
        self._stream.restore({name: value for name, value in state.items() if name != "num_read"})

    def read_by_several(self, processes: int) -> None:
        """See `Arrays.read_by_several`."""
        self._stream.read_by_several(processes)

    def next_batch(self) -> "Batch":
        """See `Stream.next_batch`."""
        # as there
        from lab.core.data.batch import to_tensors  # noqa: PLC0415

        return to_tensors(self.next_arrays())

    def next_arrays(self) -> BatchArrays:
        """See `Stream.next_arrays`."""
        if self._num_read == self._num_batches:
            before = self._stream.state
            self._stream.restore({**before, "position": before["position"] + self.jump})
            self._num_read = 0
        if self._num_read == 0:
            self._stream.expect_jump(self._num_batches * self._batch_size, self.jump)
        self._num_read += 1
        return self._stream.next_arrays()


Reading = tuple[int, int, tuple[LeftOut, ...]]
"""What a process has read of a step: its first sample, the one behind its last, and those left out in between."""


class SharedStream:
    """This process's batches of a stream that several read; the state is that of the whole stream, the same in all.

    What was left out comes with the first batch of a step of the first process.

    Attributes:
        num_batches: of a step, of this process.
    """

    def __init__(
        self,
        stream: Stream,
        exchange: Callable[[Reading], Sequence[Reading]],
        *,
        rank: int,
        size: int,
        num_total: int,
        batch_size: int,
    ) -> None:
        """Begin at the stream's position.

        Args:
            stream: read here alone.
            exchange: returns what each process gives, by rank.
            rank: of this process.
            size: number of processes.
            num_total: batches of a step, of all processes.
            batch_size: samples in a batch.
        """
        self._exchange = exchange
        self._rank = rank
        self.num_batches = num_total // size
        self._offset = rank * self.num_batches * batch_size
        self._state = stream.state
        jump = (num_total - self.num_batches) * batch_size
        self._part = Share(stream, num_batches=self.num_batches, batch_size=batch_size, jump=jump)
        self._read: Batches = self._part
        self._waiting: list[Batch] = []

    @property
    def state(self) -> dict[str, int]:
        """The position of the whole stream behind the last step that was begun."""
        return dict(self._state)

    def restore(self, state: dict[str, int]) -> None:
        """Continue from a saved position.

        Raises:
            CheckpointError: if it is no position.
        """
        self._waiting = []
        self._read.restore({**state, "num_read": 0})
        self._state = dict(state)

    @property
    def part(self) -> Share:
        """The share, positioned where the next step begins: for who reads it ahead."""
        self._begin(self._state["position"] + self._offset)
        return self._part

    def read_by(self, batches: Batches) -> "SharedStream":
        """From now on, take the batches of the share from what reads it ahead."""
        self._read = batches
        return self

    def next_batch(self) -> "Batch":
        """The next batch of this process.

        Raises:
            InputError: as `Stream.next_batch`.
        """
        if not self._waiting:
            self._waiting = self._next_step()
        return self._waiting.pop(0)

    def _next_step(self) -> "list[Batch]":
        """The batches of this process in the next step, once all have begun where the one before has ended."""
        start = self._state["position"] + self._offset
        batches = self._batches_from(start)
        while True:
            left_out = tuple(each for batch in batches for each in batch.left_out)
            reads = self._exchange((start, self._read.state["position"], left_out))
            starts = [self._state["position"], *(stop for _, stop, _ in reads)]
            if all(begun == right for (begun, _, _), right in zip(reads, starts, strict=False)):
                break
            if start != starts[self._rank]:
                start = starts[self._rank]
                batches = self._batches_from(start)
        everything = tuple(each for _, _, some in reads for each in some)
        self._state = {
            "position": starts[-1],
            "num_left_out": self._state["num_left_out"] + len(everything),
        }
        batches = [replace(batch, left_out=()) for batch in batches]
        if self._rank == 0:
            batches[0] = replace(batches[0], left_out=everything)
        return batches

    def _batches_from(self, start: int) -> "list[Batch]":
        self._begin(start)
        return [self._read.next_batch() for _ in range(self.num_batches)]

    def _begin(self, start: int) -> None:
        """Go to a sample, unless the next batch begins there."""
        now = self._read.state
        jumped = now["position"] + self._part.jump if now["num_read"] == self.num_batches else now["position"]
        if jumped != start or now["num_read"] not in (0, self.num_batches):
            self._read.restore({"position": start, "num_left_out": 0, "num_read": 0})
