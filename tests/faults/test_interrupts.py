"""Ctrl-C and SIGTERM at random moments, once and again: exit code 130, one line, nothing left behind, and it goes on.

LAB_TEST_SEED repeats the moments.
"""

import itertools
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from faults.share import every
from faults.slurm.conftest import STAGE_1, SWEEP

from drawn import SEED

Lab = Callable[..., Any]

COMMANDS = {
    "sweep": (*SWEEP, "replicates=200"),
    "sweep with two workers": (*SWEEP, "replicates=200", "workers=2"),
    "training": STAGE_1,
    "training with a loader": (*STAGE_1, "loader=process"),
}


NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
CASES = list(itertools.product(COMMANDS, (1, 2, 3), NUMBERS))


def group(number: int) -> list[int]:
    """The processes of a group that are alive."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[0] not in "ZX" and int(fields[2]) == number:
            found.append(int(path.parent.name))
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("command", "times", "number"), every(12, CASES))
def test_a_signal_to_all_processes_however_often_is_one_line_and_130(
    command: str, times: int, number: signal.Signals, lab: Lab, lab_command: tuple[str, ...], outputs: Path
) -> None:
    moments = random.Random(f"{SEED} {command} {times} {number}")
    directory = outputs / "run"
    words = [*lab_command, *COMMANDS[command], f"hydra.run.dir={directory}"]
    with subprocess.Popen(
        words,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # a shell makes what it starts in the background ignore Ctrl-C, these tests included
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        try:
            deadline = time.monotonic() + 200
            rows = moments.randint(1, 30)
            metrics = directory / "metrics.jsonl"
            while not metrics.exists() or metrics.read_bytes().count(b"\n") < rows:
                assert time.monotonic() < deadline
                assert process.poll() is None
                time.sleep(0.02)
            for _ in range(times):
                # as a terminal, or a step of srun
                os.killpg(process.pid, number)
                time.sleep(moments.choice([0, 0.01, 0.1, 0.5]) * moments.random())
            _, said = process.communicate(timeout=100)
        finally:
            process.kill()
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert [line for line in said.splitlines() if "interrupted" in line] == [
        "lab: interrupted; what is recorded is kept, and resume=RUN goes on"
    ]
    # the tracker of multiprocessing ends when it sees that its parent has
    deadline = time.monotonic() + 60
    while group(process.pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert group(process.pid) == []
    done = lab(*(("hmm-risk", "sweep") if "sweep" in command else ("distill",)), f"resume={directory}")
    assert done.code == 0, done.err


READERS = {
    "help": ("--help",),
    "version": ("version",),
    "runs": ("runs",),
    "show": ("show", "nothing"),
    "doctor": ("doctor",),
    "export": ("export", "nothing", "there"),
    "generate": ("generate", "shipped", "--prompt", "How many pictures show a bag?"),
    "bench": ("bench", "ssd", "--quick"),
    "script": ("slurm", "script", *SWEEP, "time=10"),
    "sweep": SWEEP,
    "training": STAGE_1,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_ctrl_c_while_a_command_is_imported_is_one_line_and_130(
    name: str, lab_command: tuple[str, ...], outputs: Path, tmp_path: Path
) -> None:
    moments = random.Random(f"{SEED} {name}")
    for _ in every(3, range(3)):
        with subprocess.Popen(
            [*lab_command, *READERS[name]],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        ) as process:
            status = Path(f"/proc/{process.pid}/status")
            # the mask of what Python handles; the interpreter answers Ctrl-C in its own words before that
            while not caught(status) & 1 << signal.SIGUSR2 - 1 and process.poll() is None:
                time.sleep(0.001)
            time.sleep(moments.random())
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=100)
        assert "Traceback" not in said
        # or it was done before
        assert process.returncode in (0, 2) or (process.returncode, said.count("lab: interrupted")) == (130, 1), said


def caught(status: Path) -> int:
    """The signals that a process handles, as bits; none of one that is gone."""
    words = status.read_text().split() if status.exists() else []
    return int(words[words.index("SigCgt:") + 1], 16) if "SigCgt:" in words else 0
