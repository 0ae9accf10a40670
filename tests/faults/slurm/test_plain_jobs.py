"""Plain job scripts: pre-empted, signalled or requeued at random moments, they end like a run that was not."""

import random
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from faults.slurm.cluster import Cluster
from faults.slurm.conftest import LAB, LONGER, STAGE_1, SWEEP, Results, wait_for_rows

pytestmark = pytest.mark.slurm

Whole = Callable[..., dict[str, bytes]]


def bare(folder: Path, *words: str) -> Path:
    """The script that somebody writes without having read anything."""
    path = folder / "job.sh"
    path.write_text(f"#!/bin/bash\nsrun {LAB} {' '.join(repr(word) for word in words)}\n")
    return path


def printed(folder: Path, *words: str) -> Path:
    """The script that `lab slurm script` prints."""
    done = subprocess.run([str(LAB), "slurm", "script", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    path = folder / "job.sh"
    path.write_text(done.stdout)
    return path


def by_controller(slurm: Cluster, job: str) -> None:
    slurm.run("scontrol", "requeue", job)


def by_signal(*options: str) -> Callable[[Cluster, str], None]:
    return lambda slurm, job: slurm.run("scancel", *options, job) and None


def by_preemption(slurm: Cluster, job: str) -> None:
    slurm.preempt()


def by_preemption_with_user_signal(slurm: Cluster, job: str) -> None:
    with slurm.user_signal():
        slurm.preempt()


# how a job is disturbed, and the partition in which it runs
WAYS = {
    "requeued": (by_controller, "low"),
    "SIGTERM": (by_signal("--signal=TERM"), "low"),
    "SIGUSR1": (by_signal("--signal=USR1"), "low"),
    "SIGUSR2": (by_signal("--signal=USR2"), "low"),
    "pre-empted without grace": (by_preemption, "low"),
    "pre-empted with grace": (by_preemption, "grace"),
    "pre-empted with the user's signal": (by_preemption_with_user_signal, "grace"),
}


@pytest.mark.parametrize("words", [SWEEP, STAGE_1], ids=["sweep", "stage 1"])
@pytest.mark.parametrize("how", WAYS)
def test_a_job_that_is_disturbed_ends_like_one_that_is_not(
    how: str,
    words: tuple[str, ...],
    slurm: Cluster,
    results: Results,
    whole: Whole,
    moments: random.Random,
    tmp_path: Path,
) -> None:
    disturb, partition = WAYS[how]
    job = slurm.submit(bare(tmp_path, *words), "-p", partition, "--open-mode=append", "--signal=USR2@60", cwd=tmp_path)
    wait_for_rows(results.folder, moments.randint(5, 40))
    disturb(slurm, job)
    assert slurm.wait(job) == "COMPLETED", (tmp_path / f"slurm-{job}.out").read_text()
    assert slurm.restarts(job) == 1
    (run,) = results.runs()
    assert results.files(run) == whole(*words)


def test_a_script_of_several_commands_goes_on_with_the_one_that_was_cut_off(
    slurm: Cluster, results: Results, whole: Whole, moments: random.Random, tmp_path: Path
) -> None:
    script = tmp_path / "job.sh"
    other = (*SWEEP, "seed=1")
    lines = [f"srun {LAB} {' '.join(repr(word) for word in words)}" for words in (SWEEP, other, SWEEP)]
    script.write_text("\n".join(["#!/bin/bash", "set -e", *lines, ""]))
    job = slurm.submit(script, "--open-mode=append", cwd=tmp_path)
    slurm.wait(job, "RUNNING")
    while len(results.runs()) < 2:
        wait_for_rows(results.folder, 1)
    slurm.preempt()
    assert slurm.wait(job) == "COMPLETED"
    found = [results.files(run) for run in results.runs()]
    assert len(found) == 3
    assert found.count(whole(*SWEEP)) == 2
    assert found.count(whole(*other)) == 1


def test_the_printed_script_survives_time_limits_and_pre_emption(
    slurm: Cluster, results: Results, whole: Whole, tmp_path: Path
) -> None:
    words = LONGER[SWEEP]
    job = slurm.submit(printed(tmp_path, *words, "time=1", "name=limits"), "-p", "grace", cwd=tmp_path)
    wait_for_rows(results.folder, 10)
    slurm.preempt()
    assert slurm.wait(job, seconds=900) == "COMPLETED", (tmp_path / f"slurm-{job}.out").read_text()
    assert slurm.restarts(job) >= 2
    (run,) = results.runs()
    assert results.files(run) == whole(*words)


def test_a_pre_emption_in_the_first_second_loses_nothing(
    slurm: Cluster, results: Results, whole: Whole, moments: random.Random, tmp_path: Path
) -> None:
    job = slurm.submit(printed(tmp_path, *SWEEP, "time=10"), "-p", "grace", cwd=tmp_path)
    slurm.wait(job, "RUNNING")
    slurm.preempt()
    assert slurm.wait(job) == "COMPLETED", (tmp_path / f"slurm-{job}.out").read_text()
    assert slurm.restarts(job) >= 1
    (run,) = results.runs()
    assert results.files(run) == whole(*SWEEP)


def test_a_cancelled_job_stays_cancelled(slurm: Cluster, results: Results, tmp_path: Path) -> None:
    job = slurm.submit(printed(tmp_path, *SWEEP, "time=10"), cwd=tmp_path)
    wait_for_rows(results.folder, 10)
    slurm.run("scancel", job)
    assert slurm.wait(job) == "CANCELLED"
    assert slurm.restarts(job) == 0


def test_an_array_of_24_with_pre_emptions(
    slurm: Cluster, results: Results, whole: Whole, moments: random.Random, tmp_path: Path
) -> None:
    words = ("hmm-risk", "sweep", "num_train=60", "widths=[30,60]", "replicates=600", "workers=1", "figures=[]")
    script = printed(tmp_path, *words, "seed=$SLURM_ARRAY_TASK_ID", "time=10")
    job = slurm.submit(script, "--array=0-23", "-p", moments.choice(["low", "grace"]), cwd=tmp_path)
    for number in sorted(moments.sample(range(1, 20), 3)):
        while len(results.runs()) < number:
            wait_for_rows(results.folder, 1)
        slurm.preempt()
    for task in range(24):
        assert slurm.wait(f"{job}_{task}", seconds=900) == "COMPLETED"
    assert sum(slurm.restarts(f"{job}_{task}") for task in range(24)) >= 3
    assert len(results.runs()) == 24
    for task in moments.sample(range(24), 4):
        (run,) = (run for run in results.runs() if f"job-{job}_{task}-" in str(run))
        assert results.files(run) == whole(*words, f"seed={task}")
