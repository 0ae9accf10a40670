"""Waiting for the jobs of a sweep by the queue alone."""

import os
from pathlib import Path

import pytest

from lab.cli.cluster import slurm_queue
from lab.cli.cluster.slurm_queue import QueueWatcher


@pytest.fixture
def queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What squeue prints; without the file it fails like one that knows no such job."""
    path = tmp_path / "queue"
    program = tmp_path / "squeue"
    program.write_text(f'#!/bin/sh\ncat "{path}" 2> /dev/null || {{ cat "{path}.error" >&2; exit 1; }}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    path.with_suffix(".error").write_text("slurm_load_jobs error: Invalid job id specified\n")
    return path


def asked(watcher: QueueWatcher, job: str, times: int = 2) -> bool:
    return [watcher.is_done(job) for _ in range(times)][-1]


def test_a_job_has_ended_when_the_queue_says_so_twice(queue: Path) -> None:
    watcher = QueueWatcher(seconds=0)
    watcher.register_job("7_0")
    watcher.register_job("7_1")
    queue.write_text("7_0 RUNNING\n7_1 PENDING\n")
    assert not asked(watcher, "7_0")
    # while it is requeued, a job is between two states
    queue.write_text("7_0 FAILED\n7_1 PENDING\n")
    assert not asked(watcher, "7_0", 1)
    queue.write_text("7_0 PENDING\n7_1 PENDING\n")
    assert not asked(watcher, "7_0")
    queue.write_text("7_0 FAILED\n7_1 COMPLETING\n")
    assert asked(watcher, "7_0")
    assert not asked(watcher, "7_1")
    queue.write_text("7_1 CANCELLED\n")
    watcher.wait_for_all()
    assert [watcher.get_state(job) for job in ("7_0", "7_1")] == ["FAILED", "CANCELLED"]


def test_a_byte_that_is_not_utf_8_hides_no_job(queue: Path) -> None:
    queue.write_bytes(b"7_0 RUNNING\n\xff PENDING\n")
    assert slurm_queue.queue_states(["7_0"]) == {"7_0": "RUNNING"}


def test_a_job_that_the_queue_has_forgotten_has_ended(queue: Path) -> None:
    watcher = QueueWatcher(seconds=0)
    watcher.register_job("7")
    assert asked(watcher, "7")
    assert watcher.get_state("7") == "GONE"


def test_nothing_is_concluded_from_a_controller_that_does_not_answer(queue: Path) -> None:
    queue.with_suffix(".error").write_text("Unable to contact slurm controller (connect failure)\n")
    watcher = QueueWatcher(seconds=0)
    watcher.register_job("7")
    assert not asked(watcher, "7", 5)


def test_the_queue_is_asked_seldom(queue: Path) -> None:
    watcher = QueueWatcher(seconds=1000)
    watcher.register_job("7")
    queue.write_text("7 RUNNING\n")
    assert not asked(watcher, "7")
    queue.write_text("7 FAILED\n")
    assert not asked(watcher, "7", 5)


def test_what_submitit_says_becomes_one_line() -> None:
    without = (
        "Job 7_3 (task: 0) with path /o/.submitit/7_3/7_3_0_result.pkl\nhas not produced any output (state: FAILED)\n"
        "Error stream produced:\n----\nlong\nlog"
    )
    assert slurm_queue.one_line(without).startswith(
        "job 7_3 ended without a result (FAILED); its log is /o/.submitit/7_3/7_3_0_log.err; resume=SWEEP goes on"
    )
    line = "-" * 22
    failed = (
        f"Job (task=0) failed during processing with trace:\n{line}\nTraceback:\n  File x\n"
        f"lab.core.errors.RunError: the disk is full\n\n{line}\n"
        "You can check full logs with 'job.stderr(0)' or at paths:\n  - /o/a.err\n  - /o/a.out"
    )
    assert slurm_queue.one_line(failed).startswith("a job failed: the disk is full; its log is /o/a.err or /o/a.out;")
