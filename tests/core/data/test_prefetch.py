"""Batches from a separate process are those of the stream, whatever happens to either process."""

import dataclasses
import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.core.data.batch import Batch
from lab.core.data.prefetch import Prefetched
from lab.core.data.stream import Batches, Source, Stream
from lab.core.errors import CheckpointError, LabError, RunError
from lab.core.processes import Patience
from reference.numbered import Endless, Faulty, Finite, Surroundings, Unreadable

TESTS = Path(__file__).parents[2]


def stream(source: Source, *, batch_size: int = 4) -> Stream:
    return Stream(source, batch_size=batch_size, max_length=5, seed=5)


def content(batch: Batch) -> list[Any]:
    """Everything in a batch, to the last bit."""
    values = (getattr(batch, field.name) for field in dataclasses.fields(batch))
    return [
        (value.dtype, value.shape, value.numpy().tobytes()) if isinstance(value, torch.Tensor) else value
        for value in values
    ]


def outcome(batches: Batches) -> Any:
    """The next batch or error, and the position behind it."""
    try:
        found: Any = content(batches.next_batch())
    except (LabError, ArithmeticError) as error:
        found = type(error), str(error)
    return found, batches.state


def children() -> set[int]:
    return {
        int(child) for task in Path("/proc/self/task").iterdir() for child in (task / "children").read_text().split()
    }


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize(
    "source",
    [
        Finite(broken=3, long=4),
        pytest.param(Endless(broken=3, long=4), marks=pytest.mark.slow),
        pytest.param(Endless(broken=1), marks=pytest.mark.slow),
        Faulty(),
    ],
    ids=lambda source: f"{type(source).__name__}-{source.broken}",
)
def test_batches_positions_errors_and_log_are_those_of_the_stream(
    source: Endless, caplog: pytest.LogCaptureFixture
) -> None:
    def observed(batches: Batches) -> Any:
        caplog.clear()
        # what was logged on the way to a batch comes with it, not before
        return [(outcome(batches), len(caplog.records)) for _ in range(9)], [
            (record.name, record.levelno, record.getMessage()) for record in caplog.records
        ]

    with caplog.at_level(logging.DEBUG):
        expected = observed(stream(source))
        with Prefetched(stream(source)) as batches:
            assert observed(batches) == expected


@settings(max_examples=12)
@given(before=st.integers(0, 4), ahead=st.floats(0, 0.1), between=st.integers(0, 3), depth=st.integers(1, 4))
@pytest.mark.slow
def test_any_position_is_gone_on_from(before: int, ahead: float, between: int, depth: int) -> None:
    check_restored(before, ahead, between, depth)


def test_what_was_made_ahead_is_dropped_when_a_position_is_restored() -> None:
    check_restored(before=2, ahead=0.1, between=1, depth=2)


def check_restored(before: int, ahead: float, between: int, depth: int) -> None:
    expected = stream(Finite(broken=3))
    for _ in range(before):
        expected.next_batch()
    state = expected.state
    following = [outcome(expected) for _ in range(5)]
    given_out = stream(Finite(broken=3))
    with Prefetched(given_out, depth=depth) as batches:
        for _ in range(before):
            batches.next_batch()
        time.sleep(ahead)
        assert batches.state == given_out.state == state
        for _ in range(between):
            batches.next_batch()
        batches.restore(state)
        assert [outcome(batches) for _ in range(5)] == following
    # where the process has ended, the stream goes on
    assert outcome(given_out) == outcome(expected)


def test_a_position_that_is_none_is_refused() -> None:
    with pytest.raises(CheckpointError, match="data position"):
        Prefetched(stream(Finite())).restore({"position": -1})


def test_the_process_has_one_thread_for_products_and_no_torch_and_is_gone_at_the_end() -> None:
    before = children()
    with Prefetched(stream(Surroundings())) as batches:
        (has_torch, num_threads, process) = batches.next_batch().llm_ids[0].tolist()
        assert (has_torch, num_threads) == (0, 1)
        assert children() - before == {process}
        # what ends a run after its step must not take the batch away that the step needs
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):
            os.kill(process, number)
        for _ in range(5):
            batches.next_batch()
    assert children() == before


def test_a_process_that_was_killed_is_one_line_and_what_to_do() -> None:
    before, expected = children(), stream(Endless())
    with Prefetched(stream(Endless())) as batches:
        assert outcome(batches) == outcome(expected)
        (process,) = children() - before
        os.kill(process, signal.SIGKILL)
        with pytest.raises(RunError, match=r"was killed by SIGKILL; free some memory .* write loader=inline") as raised:
            read_on(batches, expected)
        assert "\n" not in str(raised.value)
        # another process goes on
        assert outcome(batches) == outcome(expected)
    assert children() == before


@pytest.mark.slow
def test_a_process_that_was_stopped_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Patience, "seconds", 0.05)
    before, expected = children(), stream(Endless())
    with Prefetched(stream(Endless())) as batches:
        assert outcome(batches) == outcome(expected)
        (process,) = children() - before
        # for a moment
        os.kill(process, signal.SIGSTOP)
        going_on = threading.Timer(0.2, os.kill, (process, signal.SIGCONT))
        going_on.start()
        for _ in range(20):
            assert outcome(batches) == outcome(expected)
        # not after the next stop
        going_on.join()
        os.kill(process, signal.SIGSTOP)
        with pytest.raises(RunError, match=rf"the batches \({process}\) was stopped and does not go on"):
            read_on(batches, expected)
        assert outcome(batches) == outcome(expected)
    assert children() == before


def read_on(batches: Batches, expected: Batches) -> None:
    """What was made ahead is handed out, then an error stops this."""
    for _ in range(10_000):
        batch = batches.next_batch()
        assert content(batch) == content(expected.next_batch())


def test_an_error_that_is_a_bug_says_where() -> None:
    with Prefetched(stream(Faulty(), batch_size=3)) as batches:
        batches.next_batch()
        with pytest.raises(ZeroDivisionError, match="by sample 4") as raised:
            batches.next_batch()
    assert any("numbered.py" in note for note in raised.value.__notes__)


def test_a_source_that_cannot_be_sent_is_refused() -> None:
    class Local(Endless):
        """pickle finds no class inside a function."""

    with pytest.raises(RunError, match=r"the data source cannot be sent .*write loader=inline"):
        Prefetched(stream(Local())).__enter__()


@pytest.mark.slow
def test_a_source_that_the_process_cannot_read_is_refused() -> None:
    assert pickle.loads(pickle.dumps(Unreadable()))
    with (
        Prefetched(stream(Unreadable())) as batches,
        pytest.raises(RunError, match=r"cannot read the data source \(made for another process\); write loader=inline"),
    ):
        batches.next_batch()


PROGRAM = """
import sys, time
sys.path.insert(0, sys.argv[1])
from lab.core.data.prefetch import Prefetched
from lab.core.data.stream import Stream
from reference import numbered
with Prefetched(Stream(getattr(numbered, sys.argv[2])(), batch_size=4, max_length=5, seed=5)) as batches:
    print("started", flush=True)
    time.sleep(100)
"""


@pytest.mark.slow
# in the middle of a sample, and with batches that nobody fetches
@pytest.mark.parametrize("source", ["Slow", "Endless"])
@pytest.mark.parametrize("is_stopped", [False, True])
def test_the_process_ends_with_one_that_is_killed(source: str, is_stopped: bool) -> None:
    with subprocess.Popen([sys.executable, "-c", PROGRAM, str(TESTS), source], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"started\n"
        started = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
        assert len(started) == 1
        time.sleep(1)
        assert Path(f"/proc/{started[0]}/stat").read_text().rpartition(")")[2].split()[0] == "S"
        if is_stopped:
            os.kill(int(started[0]), signal.SIGSTOP)
        parent.kill()
    wait_until(lambda: not is_running(started[0]))


def is_running(process: str) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
