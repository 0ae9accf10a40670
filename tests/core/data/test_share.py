"""Several processes together read what one alone reads, whatever is left out on the way."""

import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from lab.core.data.batch import Batch
from lab.core.data.prefetch import Prefetched
from lab.core.data.share import Reading, SharedStream
from lab.core.data.stream import Stream
from lab.core.errors import CheckpointError
from reference.numbered import Endless, Finite

BATCH, TOTAL, STEPS = 2, 6, 7


def stream(source: Endless) -> Stream:
    return Stream(source, batch_size=BATCH, max_length=5, seed=5)


class Together:
    """Readers in threads, that meet at each exchange."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.barrier = threading.Barrier(size, timeout=30)
        self.given: list[Any] = [None] * size

    def exchange_of(self, rank: int) -> Callable[[Reading], Sequence[Reading]]:
        def exchange(mine: Reading) -> Sequence[Reading]:
            self.given[rank] = mine
            self.barrier.wait()
            everything = list(self.given)
            self.barrier.wait()
            return everything

        return exchange

    def do(self, work: Callable[[int], Any]) -> list[Any]:
        """What each reader returns, by rank."""
        found: list[Any] = [None] * self.size

        def keep(rank: int) -> None:
            found[rank] = work(rank)

        threads = [threading.Thread(target=keep, args=(rank,)) for rank in range(self.size)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return found


def ids(batch: Batch) -> list[int]:
    return batch.llm_ids[:, 0].tolist()


def read(shared: SharedStream, steps: int, total: int, size: int) -> list[tuple[list[list[int]], list[int], Any]]:
    """Of each step, the samples of its batches, the lines left out, and the position behind it."""
    found = []
    for _ in range(steps):
        batches = [shared.next_batch() for _ in range(total // size)]
        left_out = [each.place.number for batch in batches for each in batch.left_out]
        found.append(([ids(batch) for batch in batches], left_out, shared.state))
    return found


def alone(source: Endless, steps: int) -> list[tuple[list[list[int]], list[int], Any]]:
    one = stream(source)
    found = []
    for _ in range(steps):
        batches = [one.next_batch() for _ in range(TOTAL)]
        left_out = [each.place.number for batch in batches for each in batch.left_out]
        found.append(([ids(batch) for batch in batches], left_out, one.state))
    return found


SOURCES = (Endless(), Endless(broken=3, long=4), Endless(broken=17), Finite(broken=3, long=4), Finite())


@pytest.mark.parametrize("size", [2, 3, 6])
@pytest.mark.parametrize("source", SOURCES, ids=lambda each: f"{type(each).__name__}-{each.broken}-{each.long}")
def test_the_processes_read_what_one_alone_reads(source: Endless, size: int) -> None:
    together = Together(size)

    def work(rank: int) -> Any:
        shared = SharedStream(
            stream(source), together.exchange_of(rank), rank=rank, size=size, num_total=TOTAL, batch_size=BATCH
        )
        return read(shared, STEPS, TOTAL, size)

    found = together.do(work)
    for number, (batches, left_out, state) in enumerate(alone(source, STEPS)):
        steps = [each[number] for each in found]
        assert [batch for step in steps for batch in step[0]] == batches
        # recorded by the first process
        assert [step[1] for step in steps] == [left_out, *([[]] * (size - 1))]
        assert all(step[2] == state for step in steps)


def test_another_number_of_processes_goes_on_from_a_position() -> None:
    source = Endless(broken=3, long=4)
    expected = alone(source, STEPS)
    state = expected[3][2]
    together = Together(2)

    def work(rank: int) -> Any:
        shared = SharedStream(
            stream(source), together.exchange_of(rank), rank=rank, size=2, num_total=TOTAL, batch_size=BATCH
        )
        # what was read before is dropped
        shared.next_batch()
        shared.restore(state)
        return read(shared, STEPS - 4, TOTAL, 2)

    found = together.do(work)
    assert [found[0][0][0] + found[1][0][0], found[0][-1][2]] == [expected[4][0], expected[-1][2]]


def test_a_position_that_is_none_is_refused() -> None:
    shared = SharedStream(stream(Endless()), lambda mine: [mine], rank=0, size=1, num_total=1, batch_size=BATCH)
    with pytest.raises(CheckpointError):
        shared.restore({"position": -1, "num_left_out": 0})


@pytest.mark.slow
def test_shares_are_read_ahead_in_separate_processes() -> None:
    source = Endless(broken=3, long=4)
    together = Together(2)

    def work(rank: int) -> Any:
        shared = SharedStream(
            stream(source), together.exchange_of(rank), rank=rank, size=2, num_total=TOTAL, batch_size=BATCH
        )
        with Prefetched(shared.part, depth=shared.num_batches) as batches:
            return read(shared.read_by(batches), STEPS, TOTAL, 2)

    found = together.do(work)
    both = [first[0] + second[0] for first, second in zip(*found, strict=True)]
    assert both == [batches for batches, _, _ in alone(source, STEPS)]
