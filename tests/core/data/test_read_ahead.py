"""Batches whose samples several processes make are those of the stream, whatever is left out, jumped over or killed."""

import logging
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lab.core.data.prefetch import Prefetched
from lab.core.data.read_ahead import ReadAhead
from lab.core.data.sample import Sample
from lab.core.data.share import Share
from lab.core.data.stream import Source, Stream
from lab.core.errors import LabError, RunError
from reference.numbered import Endless, Faulty, Finite, Surroundings, Unreadable

SOURCES = [
    Endless(),
    Finite(broken=3, long=4),
    pytest.param(Endless(broken=3, long=4), marks=pytest.mark.slow),
    Faulty(),
]


def stream(source: Source, *, batch_size: int = 4) -> Stream:
    return Stream(source, batch_size=batch_size, max_length=5, seed=5)


def outcome(batches: Any) -> Any:
    try:
        batch = batches.next_batch()
        found: Any = batch.llm_ids.tolist(), batch.pixel_values.tolist(), batch.left_out
    except (LabError, ArithmeticError) as error:
        found = type(error), str(error)
    return found, batches.state


class Noted(Endless):
    """Writes the number of each sample that is made into a folder of the process that makes it."""

    def __init__(self, folder: Path, *, broken: int = 1000) -> None:
        super().__init__(broken=broken)
        self.folder = folder

    def __getitem__(self, index: int) -> Sample:
        with (self.folder / str(os.getpid())).open("a") as file:
            file.write(f"{index}\n")
        return super().__getitem__(index)


def noted(folder: Path) -> list[list[int]]:
    """What each process has made."""
    return [[int(line) for line in path.read_text().split()] for path in sorted(folder.iterdir())]


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: f"{type(source).__name__}-{source.broken}")
def test_batches_positions_errors_and_log_are_those_of_the_stream(
    source: Endless, caplog: pytest.LogCaptureFixture
) -> None:
    def observed(batches: Any) -> Any:
        caplog.clear()
        return [outcome(batches) for _ in range(9)], [record.getMessage() for record in caplog.records]

    with caplog.at_level(logging.DEBUG):
        expected = observed(stream(source))
        with Prefetched(stream(source), processes=3) as batches:
            assert observed(batches) == expected


@pytest.mark.slow
def test_each_process_makes_its_share(tmp_path: Path) -> None:
    with ReadAhead(Noted(tmp_path), processes=3) as source:
        ahead = stream(source, batch_size=6)
        for _ in range(5):
            ahead.next_arrays()
        # what is made beyond the last batch
        time.sleep(0.5)
    made = noted(tmp_path)
    assert len(made) == 3
    assert all(len(each) >= 10 for each in made)
    numbers = sorted(number for each in made for number in each)
    assert numbers[:30] == list(range(30))
    assert len(numbers) == len(set(numbers)) <= 30 + 6


@pytest.mark.slow
@pytest.mark.parametrize("broken", [1000, 5])
def test_what_is_jumped_over_is_not_made(broken: int, tmp_path: Path) -> None:
    """Two of six batches of each step are read here; a sample left out moves the rest up by one."""

    def share(source: Source) -> Share:
        return Share(stream(source, batch_size=4), num_batches=2, batch_size=4, jump=16)

    read: set[int] = set()
    with ReadAhead(Noted(tmp_path, broken=broken), processes=2) as source:
        ours, theirs = share(source), share(Endless(broken=broken))
        for _ in range(12):
            arrays, expected = ours.next_arrays(), theirs.next_arrays()
            assert np.array_equal(arrays.llm_ids, expected.llm_ids)
            assert ours.state == theirs.state
            read |= {*(arrays.llm_ids[:, 0] - 1).tolist(), *(each.place.number - 1 for each in arrays.left_out)}
        time.sleep(0.5)
    made = [number for each in noted(tmp_path) for number in each]
    # beyond the last batch, and where those left out moved the end of a step
    spare = 4 if broken == 1000 else 4 + 6 * 4
    assert read <= set(made)
    assert len(made) <= len(read) + spare


def test_they_have_no_torch_and_one_thread_and_end_with_the_batches() -> None:
    with Prefetched(stream(Surroundings(), batch_size=3), processes=3) as batches:
        rows = batches.next_batch().llm_ids.tolist()
        assert {tuple(row[:2]) for row in rows} == {(0, 1)}
        processes = {row[2] for row in rows}
        assert len(processes) == 3
    assert are_gone(processes)


def read_on(batches: Prefetched) -> None:
    """What was made ahead is handed out, then an error stops this."""
    for _ in range(10_000):
        batches.next_batch()


def are_gone(processes: set[int]) -> bool:
    """Soon: the one that started them was killed."""
    deadline = time.monotonic() + 20
    while any(is_running(process) for process in processes) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not any(is_running(process) for process in processes)


def is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_one_that_was_killed_is_one_line_and_what_to_do() -> None:
    source = Surroundings()
    with Prefetched(stream(source, batch_size=2), processes=2) as batches:
        (mine, other) = (row[2] for row in batches.next_batch().llm_ids.tolist())
        assert mine != other
        os.kill(other, signal.SIGKILL)
        with pytest.raises(RunError, match=r"a process that makes samples .* write loader=inline") as raised:
            read_on(batches)
    assert "\n" not in str(raised.value)


@pytest.mark.slow
def test_one_that_was_stopped_is_given_up() -> None:
    with Prefetched(stream(Surroundings(), batch_size=2), processes=2) as batches:
        (_, other) = (row[2] for row in batches.next_batch().llm_ids.tolist())
        os.kill(other, signal.SIGSTOP)
        with pytest.raises(RunError, match="was stopped and does not go on"):
            read_on(batches)
    assert are_gone({other})


@pytest.mark.slow
def test_a_source_that_a_process_cannot_read_is_refused() -> None:
    with ReadAhead(Unreadable(), processes=2) as ahead:
        ahead.expect([0, 1])
        with pytest.raises(RunError, match="cannot read the data source"):
            ahead[1]
