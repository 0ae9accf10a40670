"""Sweeps as processes: killed, interrupted, extended, without room on the disk, they end with the same numbers."""

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from reference.parquet import read_table

Row = dict[str, Any]
Lab = Callable[..., Any]

SMALL = ("num_train=20", "widths=[6,10,40]", "replicates=3", "figures=[excess_risk]")
# about 4 s of work, recorded in pieces: long enough to be killed in the middle
LONG = ("num_train=120", "widths=[20,60,120,200,300]", "replicates=60", "figures=[excess_risk]")


def started(lab_command: tuple[str, ...], directory: Path, *words: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [*lab_command, "hmm-risk", "sweep", *words, *_directory(words, directory)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        # a shell makes what it starts in the background ignore Ctrl-C, these tests included
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def _directory(words: tuple[str, ...], directory: Path) -> list[str]:
    return [] if any(word.startswith("resume=") for word in words) else [f"hydra.run.dir={directory}"]


@contextmanager
def working(
    lab_command: tuple[str, ...], directory: Path, *words: str, rows: int = 30
) -> Iterator["subprocess.Popen[str]"]:
    """A sweep in a process of its own that has recorded some rows, and has more to do."""
    process = started(lab_command, directory, *words)
    try:
        metrics, patience = directory / "metrics.jsonl", time.monotonic() + 200
        while not metrics.exists() or metrics.read_bytes().count(b"\n") < rows:
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < patience, "nothing was recorded"
            time.sleep(0.01)
        yield process
    finally:
        process.kill()
        process.communicate()


def status_of(directory: Path) -> str:
    return str(json.loads((directory / "status.json").read_text())["status"])


def children_of(process: int) -> list[int]:
    done = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True)
    pairs = [tuple(map(int, line.split())) for line in done.stdout.splitlines()]
    return [pid for pid, parent in pairs if parent == process]


def is_alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def check_gone(processes: list[int]) -> None:
    """They end by themselves: how soon is not said, since the machine may be busy."""
    patience = time.monotonic() + 60
    while any(map(is_alive, processes)):
        assert time.monotonic() < patience, "workers outlive the command"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def whole_of(tmp_path_factory: pytest.TempPathFactory, forked_lab: Lab) -> Callable[[int], Path]:
    """The run of `LONG` that nobody ended, with so many workers; made once."""

    @cache
    def run(workers: int) -> Path:
        folder = tmp_path_factory.mktemp("whole")
        words = (*LONG, f"workers={workers}", f"hydra.run.dir={folder / 'run'}")
        done = forked_lab("hmm-risk", "sweep", *words, cwd=folder, env={"LAB_OUTPUTS": str(folder)})
        assert done.code == 0, done.err
        return folder / "run"

    return run


@pytest.mark.slow
def test_one_process_and_two_give_the_same_table(lab: Lab, outputs: Path) -> None:
    tables = []
    for workers in (1, 2):
        done = lab("hmm-risk", "sweep", *SMALL, f"workers={workers}", f"hydra.run.dir={outputs / str(workers)}")
        assert done.code == 0, done.err
        tables.append((outputs / str(workers) / "table.parquet").read_bytes())
    assert tables[0] == tables[1]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["resume", "same directory"])
@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_sweep_ends_with_the_numbers_of_one_that_was_not(
    how: str, workers: int, lab: Lab, lab_command: tuple[str, ...], outputs: Path, whole_of: Callable[[int], Path]
) -> None:
    words = (*LONG, f"workers={workers}")
    killed, whole = outputs / "hmm_risk" / "runs" / "killed", whole_of(workers)
    for rows in (30, 400):
        with working(lab_command, killed, *words, rows=rows) as process:
            children = children_of(process.pid)
            process.send_signal(signal.SIGKILL)
        assert len(children) >= (workers if workers > 1 else 0)
        check_gone(children)
        assert "killed" in lab("runs", env={"COLUMNS": "200"}).out.partition("runs/killed")[2].split("\n")[0]
    assert not (killed / "table.parquet").exists()
    before = (killed / "metrics.jsonl").read_bytes().rpartition(b"\n")[0].splitlines()
    if how == "resume":
        done = lab("hmm-risk", "sweep", "resume=killed")
    else:
        done = lab("hmm-risk", "sweep", *words, f"hydra.run.dir={killed}")
    assert done.code == 0, done.err
    assert status_of(killed) == "finished"
    assert repr(read_table(killed / "table.parquet")) == repr(read_table(whole / "table.parquet"))
    # what was recorded was not done again: only the rows of a unit that was cut short may be gone
    after = (killed / "metrics.jsonl").read_bytes().splitlines()
    assert len(set(after)) == len(after) == len((whole / "metrics.jsonl").read_bytes().splitlines())
    assert len(set(before) & set(after)) > len(before) - 5


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_sweep_says_so_and_goes_on(
    number: signal.Signals, workers: int, lab: Lab, lab_command: tuple[str, ...], outputs: Path
) -> None:
    words = (*LONG, f"workers={workers}")
    directory = outputs / "hmm_risk" / "runs" / "interrupted"
    with working(lab_command, directory, *words) as process:
        children = children_of(process.pid)
        process.send_signal(number)
        _, said = process.communicate(timeout=100)
        assert process.returncode == 130
        assert said.rstrip().splitlines()[-1].startswith("lab: interrupted")
        assert "Traceback" not in said
    assert status_of(directory) == "interrupted"
    check_gone(children)
    done = lab("hmm-risk", "sweep", "resume=interrupted")
    assert done.code == 0, done.err
    assert status_of(directory) == "finished"


@pytest.mark.slow
def test_two_sweeps_cannot_write_into_one_directory(lab: Lab, lab_command: tuple[str, ...], outputs: Path) -> None:
    directory = outputs / "one"
    with working(lab_command, directory, *LONG, "workers=1"):
        done = lab("hmm-risk", "sweep", *LONG, "workers=1", f"hydra.run.dir={directory}")
        assert done.code == 2
        assert done.err.startswith("lab: ")
        assert "is open in another process" in done.err
        assert status_of(directory) == "running"


@pytest.mark.slow
def test_a_disk_that_fills_up_ends_a_sweep_with_one_line(lab_command: tuple[str, ...], tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a small file system needs root")
    try:
        with working(lab_command, disk / "run", *LONG, "workers=1") as process:
            with contextlib.suppress(OSError), open(disk / "of somebody else", "wb", buffering=0) as file:
                while file.write(bytes(1024)):
                    pass
            _, said = process.communicate(timeout=100)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
    assert process.returncode == 2
    # the progress bar stands in front of it
    assert said.rstrip().splitlines()[-1].startswith("lab: ")
    assert "the disk is full; free some space" in said
    assert "Traceback" not in said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "says"),
    [
        (signal.SIGKILL, ("lab: a worker was killed", "resume=RUN workers=1")),
        (signal.SIGSTOP, ("lab: a worker (process", "was stopped and does not go on; resume=RUN starts others")),
    ],
)
def test_a_worker_that_is_killed_or_stopped_ends_a_sweep_with_one_line(
    number: signal.Signals, says: tuple[str, str], lab: Lab, lab_command: tuple[str, ...], outputs: Path
) -> None:
    directory = outputs / "hmm_risk" / "runs" / "killed"
    with working(lab_command, directory, *LONG, "workers=2") as process:
        workers = [
            child for child in children_of(process.pid) if "spawn_main" in Path(f"/proc/{child}/cmdline").read_text()
        ]
        # the other one would end the sweep if only one was stopped and had nothing in hand
        for worker in workers if number == signal.SIGSTOP else workers[:1]:
            os.kill(worker, number)
        _, printed = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "Traceback" not in printed
    assert printed.rstrip().splitlines()[-1].startswith(says[0])
    assert says[1] in printed
    done = lab("hmm-risk", "sweep", "resume=killed", "workers=1")
    assert done.code == 0, done.err
    assert status_of(directory) == "finished"


@pytest.mark.slow
@pytest.mark.parametrize("discrete", [False, True])
def test_resume_goes_on_with_more_draws_more_problems_and_other_figures(
    discrete: bool, lab: Lab, lab_command: tuple[str, ...], outputs: Path
) -> None:
    of_posterior = ("representation=posterior", "hmm.num_states=[4,9]", "population_sequences=1000", "num_train=20")
    hmm = ("hmm=dirichlet", *of_posterior, "figures=[excess_risk]") if discrete else ("hmm=general", *LONG)
    words = ("hmm-risk", "sweep", *hmm, *([] if discrete else ["observation_noise=0.5", "hmm.state_dim=6"]))
    grown, whole = outputs / "hmm_risk" / "runs" / "grown", outputs / "hmm_risk" / "runs" / "whole"
    more = ("replicates=6", "problems=3", "figures=[total_risk]")
    for done in (
        lab(*words, "replicates=2", "workers=1", f"hydra.run.dir={grown}"),
        lab(*words, *more, f"hydra.run.dir={whole}"),
    ):
        assert done.code == 0, done.err
    before = (grown / "metrics.jsonl").read_bytes()
    with working(
        lab_command, grown, "resume=grown", *more, f"workers={1 if discrete else 2}", rows=before.count(b"\n") + 1
    ) as process:
        process.send_signal(signal.SIGKILL)
    # what was typed then counts from then on
    done = lab("hmm-risk", "sweep", "resume=grown")
    assert done.code == 0, done.err
    assert (grown / "table.parquet").read_bytes() == (whole / "table.parquet").read_bytes()
    assert (grown / "metrics.jsonl").read_bytes().startswith(before)
    assert json.loads((grown / "config.json").read_text()) == json.loads((whole / "config.json").read_text())
    assert (grown / "figures" / "total_risk.png").exists()
    kept = {path: path.read_bytes() for path in grown.iterdir() if path.is_file() and path.name != "lab.log"}
    done = lab("hmm-risk", "sweep", "resume=grown", "replicates=5")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "replicates=6, not 5; give 6 or more" in done.err
    assert {path: path.read_bytes() for path in kept} == kept
