"""What a signal does to a run: outside of Slurm, in a job that can be requeued, and in one that cannot."""

import importlib
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from lab.cli.dispatch import one_line_errors
from lab.core.runs import signals
from lab.core.runs.early_signals import INTERRUPTED, SIGNALS, handle_early
from lab.core.runs.signals import EndSignals
from lab.core.runs.slurm import RUNNING, state_of
from lab.core.train.interruption import Interruption

# a fake scontrol: it prints the file `state`, and records its arguments in `told`
_SCONTROL = """#!/bin/sh
echo "$@" >> "{folder}/told"
case $1 in
show) cat "{folder}/state" ;;
requeue) if [ -f "{folder}/refusal" ]; then cat "{folder}/refusal" >&2; exit 1; fi ;;
esac
"""
_RUNNING = """JobId=7 JobName=JobState=PENDING
   JobState=RUNNING Reason=None Dependency=(null)
   Requeue=1 Restarts=0 BatchFlag=1 Reboot=0 ExitCode=0:0
"""


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """What pytest handles is put back, and the signals have no handler but Python's."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number in SIGNALS:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def controller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This process is part of job 7; the folder of the controller that answers about it."""
    folder = tmp_path / "controller"
    folder.mkdir()
    (folder / "scontrol").write_text(_SCONTROL.format(folder=folder))
    (folder / "scontrol").chmod(0o755)
    (folder / "state").write_text(_RUNNING)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    for name in ("SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID"):
        monkeypatch.delenv(name, raising=False)
    return folder


def test_a_byte_that_is_not_utf_8_hides_no_job(controller: Path) -> None:
    (controller / "state").write_bytes(_RUNNING.encode().replace(b"JobName=", b"JobName=\xff"))
    state = state_of("7")
    assert (state is not None and state.is_running, state is not None and state.can_be_requeued) == (True, True)


def told(controller: Path) -> list[str]:
    return [line for line in (controller / "told").read_text().splitlines() if not line.startswith("show")]


def send(number: int) -> None:
    os.kill(os.getpid(), number)


def ends(run: Path, number: int, *, has_progress: bool = True) -> bool:
    """Whether a signal ends a run."""
    run.mkdir(exist_ok=True)
    try:
        with EndSignals(run):
            if has_progress:
                record_a_row(run)
            send(number)
    except KeyboardInterrupt:
        return True
    return False


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_a_run_once_and_does_not_disturb_what_follows(number: int, tmp_path: Path) -> None:
    cleaned: list[int] = []

    def work() -> None:
        with EndSignals(is_process=True), EndSignals(tmp_path):
            try:
                send(number)
            finally:
                for again in SIGNALS:
                    send(again)
                    cleaned.append(again)

    with pytest.raises(KeyboardInterrupt):
        work()
    assert cleaned == list(SIGNALS)
    # until the process is gone
    assert {signal.getsignal(number) for number in SIGNALS} == {signal.SIG_IGN}


def test_a_signal_that_a_library_swallows_is_raised_by_the_next(tmp_path: Path) -> None:
    with EndSignals(tmp_path):
        with suppress(BaseException):
            send(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)


def test_an_import_is_finished_before_a_run_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "slow_library.py").write_text(
        "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(0.12)\ndone = True\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))

    def run() -> None:
        with EndSignals(tmp_path):
            importlib.import_module("slow_library")
            time.sleep(10)

    with pytest.raises(KeyboardInterrupt):
        run()
    assert sys.modules.pop("slow_library").done
    assert signal.getsignal(signal.SIGALRM) == signal.SIG_DFL


def test_signals_of_a_job_that_come_before_its_command_are_held_back(
    controller: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    handle_early()
    send(signal.SIGTERM)
    with one_line_errors():
        assert "SIGTERM: nothing was recorded since job 7 started" in capfd.readouterr().err
    (controller / "state").write_text(_RUNNING.replace("=RUNNING", "=COMPLETING"))
    send(signal.SIGTERM)
    with pytest.raises(SystemExit) as left, one_line_errors():
        pytest.fail("the job is ending")
    assert left.value.code == INTERRUPTED


def test_what_ends_without_a_signal_puts_back_what_was_there(tmp_path: Path) -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with EndSignals(is_process=True), EndSignals(tmp_path):
        pass
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_a_handler_that_is_there_is_called_and_left_alone(tmp_path: Path) -> None:
    heard: list[int] = []

    def hear(number: int, frame: object) -> None:
        heard.append(number)

    signal.signal(signal.SIGTERM, hear)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    with EndSignals(tmp_path):
        send(signal.SIGTERM)
        send(signal.SIGUSR1)
        assert signal.getsignal(signal.SIGTERM) == hear
    assert heard == [signal.SIGTERM]


@pytest.mark.parametrize("number", SIGNALS[1:])
def test_a_job_is_requeued(number: int, tmp_path: Path, controller: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert ends(tmp_path / "run", number)
    assert told(controller) == ["requeue 7"]
    name = signal.Signals(number).name
    assert capfd.readouterr().err == f"lab: {name}: job 7 is requeued, and goes on from what is recorded\n"


def test_a_task_of_an_array_is_requeued_alone(
    tmp_path: Path, controller: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "7")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    assert ends(tmp_path / "run", signal.SIGTERM)
    assert told(controller) == ["requeue 7_3"]


def test_ctrl_c_in_a_job_ends_the_run(tmp_path: Path, controller: Path) -> None:
    assert ends(tmp_path / "run", signal.SIGINT)
    assert not (controller / "told").exists()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        # cancelled, out of time, or requeued by Slurm itself
        ("=RUNNING", "=COMPLETING"),
        ("Requeue=1", "Requeue=0"),
        # from salloc
        ("BatchFlag=1", "BatchFlag=0"),
    ],
)
def test_a_job_that_ends_or_cannot_be_requeued_ends_the_run(
    old: str, new: str, tmp_path: Path, controller: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (controller / "state").write_text(_RUNNING.replace(old, new))
    assert ends(tmp_path / "run", signal.SIGTERM)
    assert told(controller) == []
    # a run that ends names the reason
    assert re.search(r"lab: SIGTERM: job 7 (is COMPLETING, and )?ends", capfd.readouterr().err)


@pytest.mark.parametrize("word", RUNNING)
def test_a_job_that_has_its_resources_is_requeued_whatever_happens_to_it(
    word: str, tmp_path: Path, controller: Path
) -> None:
    # while a signal is on its way, Slurm may say so in the place of RUNNING
    (controller / "state").write_text(_RUNNING.replace("JobState=RUNNING", f"JobState={word}"))
    assert ends(tmp_path / "run", signal.SIGUSR1)
    assert told(controller) == ["requeue 7"]


def test_without_progress_a_job_goes_on_since_it_would_be_requeued_for_ever(
    tmp_path: Path, controller: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert not ends(tmp_path / "run", signal.SIGUSR2, has_progress=False)
    assert told(controller) == []
    assert "nothing was recorded since job 7 started; going on until something is" in capfd.readouterr().err


@pytest.fixture
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "_SECONDS_OF_LOOKS", 0.01)


def record_a_row(run: Path) -> None:
    with (run / "metrics.jsonl").open("a") as file:
        file.write("{}\n")


def wait_until_interrupted() -> None:
    with pytest.raises(KeyboardInterrupt):
        time.sleep(20)


@pytest.mark.usefixtures("looks_often")
@pytest.mark.parametrize("is_early", [True, False], ids=["before the run", "in the run"])
def test_a_signal_without_progress_is_answered_once_something_is_recorded(
    is_early: bool, tmp_path: Path, controller: Path
) -> None:
    record_a_row(tmp_path)
    with EndSignals(is_process=True):
        if is_early:
            send(signal.SIGUSR2)
        with EndSignals(tmp_path):
            if not is_early:
                send(signal.SIGUSR2)
            time.sleep(0.1)
            assert told(controller) == []
            record_a_row(tmp_path)
            wait_until_interrupted()
    assert told(controller) == ["requeue 7"]
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


@pytest.mark.usefixtures("looks_often")
def test_a_signal_that_a_short_run_leaves_unanswered_is_answered_in_the_next(tmp_path: Path, controller: Path) -> None:
    runs = [tmp_path / "first", tmp_path / "second"]
    for run in runs:
        run.mkdir()
    with EndSignals(is_process=True):
        with EndSignals(runs[0]):
            send(signal.SIGUSR2)
        time.sleep(0.1)
        assert told(controller) == []
        with EndSignals(runs[1]):
            record_a_row(runs[1])
            wait_until_interrupted()
    assert told(controller) == ["requeue 7"]


@pytest.mark.usefixtures("looks_often")
def test_a_training_writes_its_checkpoint_before_it_answers_an_earlier_signal(tmp_path: Path, controller: Path) -> None:
    with EndSignals(tmp_path):
        send(signal.SIGUSR2)
        with Interruption() as interruption:
            record_a_row(tmp_path)
            deadline = time.monotonic() + 20
            while not interruption.is_requested:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            assert told(controller) == []
            with pytest.raises(KeyboardInterrupt):
                interruption.pass_on()
    assert told(controller) == ["requeue 7"]


@pytest.mark.parametrize(("seconds_left", "waits"), [(20, 10), (200, 100), (3600, 0), (-5, 0), (None, 0)])
def test_half_of_the_time_of_a_job_that_ends_soon_is_used_before_it_is_requeued(
    seconds_left: int | None, waits: float, tmp_path: Path, controller: Path
) -> None:
    end = (
        "Unknown"
        if seconds_left is None
        else (datetime.now() + timedelta(seconds=seconds_left)).isoformat("T", "seconds")
    )
    (controller / "state").write_text(f"{_RUNNING}   StartTime=2026-01-01T00:00:00 EndTime={end} Deadline=N/A\n")
    if waits == 0:
        assert ends(tmp_path / "run", signal.SIGUSR2)
        return
    with EndSignals(tmp_path):
        record_a_row(tmp_path)
        send(signal.SIGUSR2)
        left, _ = signal.getitimer(signal.ITIMER_REAL)
        assert waits - 2 < left <= waits
        assert told(controller) == []


@pytest.mark.usefixtures("looks_often")
def test_a_job_that_ends_soon_is_requeued_after_half_of_its_time(tmp_path: Path, controller: Path) -> None:
    end = (datetime.now() + timedelta(seconds=1.7)).isoformat("T", "seconds")
    (controller / "state").write_text(f"{_RUNNING}   StartTime=2026-01-01T00:00:00 EndTime={end} Deadline=N/A\n")
    with EndSignals(tmp_path):
        record_a_row(tmp_path)
        send(signal.SIGUSR2)
        wait_until_interrupted()
    assert told(controller) == ["requeue 7"]


def test_a_job_that_slurm_refuses_to_requeue_goes_on(
    tmp_path: Path, controller: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (controller / "refusal").write_text("Access denied")
    assert not ends(tmp_path / "run", signal.SIGTERM)
    assert "job 7 cannot be requeued (Access denied)" in capfd.readouterr().err


def test_where_slurm_does_not_answer_the_second_signal_ends_the_run(tmp_path: Path, controller: Path) -> None:
    (controller / "state").unlink()
    with EndSignals(tmp_path):
        send(signal.SIGUSR2)
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGTERM)
