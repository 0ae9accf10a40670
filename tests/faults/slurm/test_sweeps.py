"""`-m hydra/launcher=slurm_cpu`: disturbed jobs go on, and the waiting command ends when they have."""

import contextlib
import json
import random
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from faults.slurm.cluster import Cluster
from faults.slurm.conftest import LAB, LONGER, STAGE_1, SWEEP, Results, wait_for_rows
from faults.slurm.test_plain_jobs import WAYS, Whole, by_signal

pytestmark = pytest.mark.slurm
pytest.importorskip("hydra_plugins.hydra_submitit_launcher")

LAUNCHER = ("-m", "hydra/launcher=slurm_cpu", "hydra.launcher.cpus_per_task=1", "hydra.launcher.mem_gb=null")
SWEEP_WAYS = WAYS | {"SIGUSR2 to all": (by_signal("--full", "--signal=USR2"), "low")}


@contextlib.contextmanager
def waiting(slurm: Cluster, folder: Path, words: Sequence[str]) -> "Iterator[subprocess.Popen[str]]":
    """The command, while it waits for its jobs."""
    with subprocess.Popen(
        [str(LAB), *words, *LAUNCHER],
        cwd=folder,
        env=slurm.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def only_job(slurm: Cluster, folder: Path) -> str:
    """The job that was submitted from a folder: one of an earlier test may still be ending."""
    deadline = time.monotonic() + 120
    while True:
        lines = slurm.run("squeue", "-h", "-n", "lab", "-o", "%F %Z", "-t", "PENDING,RUNNING").splitlines()
        jobs = {job for job, where in (line.split(maxsplit=1) for line in lines) if Path(where) == folder}
        if jobs:
            (job,) = jobs
            return job
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.mark.parametrize("words", [SWEEP, STAGE_1], ids=["sweep", "stage 1"])
@pytest.mark.parametrize("how", SWEEP_WAYS)
def test_a_point_that_is_disturbed_ends_like_one_that_is_not(
    how: str,
    words: tuple[str, ...],
    slurm: Cluster,
    results: Results,
    whole: Whole,
    moments: random.Random,
    tmp_path: Path,
) -> None:
    disturb, partition = SWEEP_WAYS[how]
    if how == "pre-empted with grace":
        # submitit ignores SIGTERM, so that the job goes on until its grace time is over
        words = LONGER[words]
    with waiting(slurm, tmp_path, [*words, f"hydra.launcher.partition={partition}"]) as process:
        job = only_job(slurm, tmp_path)
        wait_for_rows(results.folder, moments.randint(5, 40))
        disturb(slurm, job)
        _, said = process.communicate(timeout=900)
    assert process.returncode == 0, said
    assert "WARNING" not in said
    # submitit ignores SIGTERM: who sends it without a kill has no effect
    assert (slurm.restarts(job) > 0) is (how != "SIGTERM")
    (run,) = results.runs()
    assert results.files(run) == whole(*words)


def test_time_limits_in_a_row(slurm: Cluster, results: Results, whole: Whole, tmp_path: Path) -> None:
    words = (*SWEEP[:-3], "replicates=1500", *SWEEP[-2:])
    limits = ("hydra.launcher.timeout_min=1", "hydra.launcher.signal_delay_s=30", "workers=2")
    with waiting(slurm, tmp_path, [*words, *limits]) as process:
        job = only_job(slurm, tmp_path)
        _, said = process.communicate(timeout=900)
    assert process.returncode == 0, said
    assert slurm.restarts(job) >= 1
    (run,) = results.runs()
    assert results.files(run) == whole(*words)


@pytest.mark.parametrize("options", [(), ("--signal=KILL",), ("--signal=INT",)], ids=["cancelled", "killed", "Ctrl-C"])
def test_the_waiting_command_ends_with_its_jobs(
    options: tuple[str, ...], slurm: Cluster, results: Results, tmp_path: Path
) -> None:
    words = [*SWEEP[:-3], "replicates=600,601", *SWEEP[-2:], "hydra.launcher.max_num_timeout=0"]
    with waiting(slurm, tmp_path, words) as process:
        job = only_job(slurm, tmp_path)
        wait_for_rows(results.folder, 1)
        slurm.run("scancel", *options, f"{job}_0")
        _, said = process.communicate(timeout=200)
    assert process.returncode == 2, said
    lines = [line for line in said.splitlines() if line.startswith("lab: ")]
    assert len(lines) == 1
    assert f"job {job}_0 ended without a result" in lines[0]
    assert slurm.run("squeue", "-h", "-n", "lab") == ""


def test_a_pre_emption_in_the_first_second_loses_nothing(
    slurm: Cluster, results: Results, whole: Whole, tmp_path: Path
) -> None:
    words = LONGER[SWEEP]
    with waiting(slurm, tmp_path, [*words, "hydra.launcher.partition=grace"]) as process:
        job = only_job(slurm, tmp_path)
        slurm.wait(job, "RUNNING")
        slurm.preempt()
        _, said = process.communicate(timeout=900)
    assert process.returncode == 0, said
    assert slurm.restarts(job) >= 1
    (run,) = results.runs()
    assert results.files(run) == whole(*words)


def test_points_that_are_left_to_the_queue_end_like_others(
    slurm: Cluster, results: Results, whole: Whole, tmp_path: Path
) -> None:
    words = ("hmm-risk", "sweep", "num_train=60", "widths=[30,60]", "replicates=100", "workers=1", "figures=[]")
    sweep = tmp_path / "outputs" / "hmm_risk" / "sweeps" / "left"
    command = [str(LAB), *words, "seed=0,1,2", *LAUNCHER, f"hydra.sweep.dir={sweep}", "--no-wait"]

    def typed(*command: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            command, cwd=tmp_path, env=slurm.environment, capture_output=True, text=True, timeout=200, check=False
        )

    done = typed(*command)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(sweep)
    jobs = json.loads((sweep / "jobs.json").read_text())
    listed = json.loads(typed(str(LAB), "runs", "--json").stdout)
    assert {run["status"] for run in listed} <= {"waiting", "running", "finished"}
    assert len(listed) == 3
    again = typed(*command)
    # too late to be refused only if the jobs have ended in the meantime
    assert again.returncode == 2 or "3 of 3 points are finished" in again.stderr, again.stderr
    for job in jobs.values():
        assert slurm.wait(job) == "COMPLETED"
    for number in range(3):
        assert results.files(sweep / str(number)) == whole(*words, f"seed={number}")
    assert "3 of 3 points are finished and skipped: 0-2" in typed(*command).stderr
