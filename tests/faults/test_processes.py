"""Processes of a run that die, are stopped or told to end: one line names them, and torchrun's restarts lose nothing.

A few ranks are killed, at random moments. LAB_TEST_KILLS sets how many; LAB_TEST_SEED repeats the moments.
"""

import contextlib
import os
import random
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from several_processes import Launcher, ends, newest, rows

from drawn import SEED
from warm_commands import Finished

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("LAB_TEST_KILLS", "3"))
DDP = "parallel.strategy=ddp"


@pytest.fixture(scope="module")
def launcher(
    tmp_path_factory: pytest.TempPathFactory,
    lab_command: tuple[str, ...],
    teacher: Path,
    forked_lab: Callable[..., Finished],
) -> Launcher:
    return Launcher(tmp_path_factory.mktemp("processes"), lab_command, teacher, forked_lab)


def children(process: int) -> list[int]:
    """By rank: torchrun starts them in this order."""
    found = subprocess.run(["pgrep", "-P", str(process)], capture_output=True, text=True, check=False).stdout
    return sorted(map(int, found.split()))


def wait_for_checkpoint(process: "subprocess.Popen[str]", run: Path, step: int) -> None:
    deadline = time.monotonic() + 300
    while newest(run) < step:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_ranks_that_are_killed_change_nothing(launcher: Launcher) -> None:
    steps = 20 * KILLS
    draw = random.Random(f"{SEED} ranks")
    whole = launcher.run("whole", "stage=1", DDP, size=2, steps=steps)
    process = launcher.start(launcher.words("killed", "stage=1", DDP, steps=steps), 2, restarts=KILLS)
    run = launcher.root / "killed"
    for number in range(KILLS):
        # at any moment of an attempt that begins, or that has come so far
        if draw.random() < 0.7:
            wait_for_checkpoint(process, run, min(steps - 10, 5 + 15 * number))
        time.sleep(draw.uniform(0, 3))
        ranks = children(process.pid)
        if process.poll() is None and ranks:
            with contextlib.suppress(ProcessLookupError):
                os.kill(draw.choice(ranks), signal.SIGKILL)
    _, said = process.communicate(timeout=600)
    assert process.returncode == 0, said
    ours, theirs = ends(run), ends(whole)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert rows(run) == rows(whole)


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL])
def test_a_rank_that_dies_or_hangs_is_named_and_ends_all(number: signal.Signals, launcher: Launcher) -> None:
    name = number.name
    process = launcher.start(launcher.words(name, "stage=1", DDP, "parallel.timeout=3", steps=100_000), 2)
    wait_for_checkpoint(process, launcher.root / name, 5)
    victim = children(process.pid)[1]
    os.kill(victim, number)
    _, said = process.communicate(timeout=100)
    assert process.returncode != 0
    ours = [line for line in said.splitlines() if line.startswith("lab: ")]
    assert len(ours) == 1, said
    # where all are slow, the silence of a stopped one is noticed first
    what = "was killed or died" if number == signal.SIGKILL else "was stopped|has not answered"
    assert f"rank 1 (process {victim} on " in ours[0]
    assert re.search(what, ours[0])
    assert "[rank" not in said
    assert children(process.pid) == []


def test_a_signal_to_any_rank_ends_all_with_a_checkpoint(launcher: Launcher) -> None:
    process = launcher.start(launcher.words("told", "stage=1", DDP, steps=100_000), 2)
    run = launcher.root / "told"
    wait_for_checkpoint(process, run, 5)
    os.kill(children(process.pid)[1], signal.SIGTERM)
    _, said = process.communicate(timeout=100)
    ours = [line for line in said.splitlines() if line.startswith("lab: ")]
    assert [line.split(":")[1].strip() for line in ours] == [
        "SIGTERM",
        "interrupted; what is recorded is kept, and resume=RUN goes on",
    ], said
    last = max(row["step"] for row in rows(run) if row["kind"] == "train")
    assert newest(run) == last


def test_several_processes_that_were_not_asked_for_are_refused_once(launcher: Launcher) -> None:
    process = launcher.start(launcher.words("refused", "stage=1"), 2)
    _, said = process.communicate(timeout=100)
    ours = [line for line in said.splitlines() if line.startswith("lab: ")]
    assert len(ours) == 1, said
    assert "parallel.strategy=ddp or fsdp" in ours[0]
    assert not (launcher.root / "refused").exists()
