"""Three stages as dependent jobs, one of them pre-empted."""

import random
import re
import subprocess
import time
from pathlib import Path

import pytest
from faults.slurm.cluster import Cluster
from faults.slurm.conftest import LAB, STAGE_1, Results

pytestmark = pytest.mark.slurm

STEPS = [f"stage_{stage}.{key}" for stage in (1, 2, 3) for key in ("steps=80", "batch_size=8")]
WORDS = (*(word for word in STAGE_1[2:] if not word.startswith("stage_")), *STEPS)


def test_a_chain_with_a_stage_that_is_pre_empted_ends_like_three_commands(
    slurm: Cluster, results: Results, moments: random.Random, tmp_path: Path
) -> None:
    words = ["distill", "stage=1", *WORDS, "then", "2", "then", "3", "time=20", "partition=grace"]
    script = subprocess.run([str(LAB), "slurm", "script", *words], capture_output=True, text=True, check=False)
    assert script.returncode == 0, script.stderr
    said = subprocess.run(
        ["sh"], input=script.stdout, env=slurm.environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert said.returncode == 0, said.stderr
    jobs = re.findall(r"job (\d+)", said.stdout)
    assert len(jobs) == 3
    stage, step = moments.randint(1, 3), moments.randint(1, 15)
    deadline = time.monotonic() + 400
    while not any(
        path.read_bytes().count(b'"train"') >= step for path in results.folder.rglob(f"*-stage-{stage}/metrics.jsonl")
    ):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    slurm.preempt()
    assert [slurm.wait(job) for job in jobs] == ["COMPLETED"] * 3
    assert slurm.restarts(jobs[stage - 1]) == 1

    before = []
    for number, run in enumerate(sorted(results.runs(), key=lambda run: run.name[-1]), start=1):
        whole = tmp_path / f"whole-{number}"
        command = [str(LAB), "distill", f"stage={number}", *WORDS, *before, f"hydra.run.dir={whole}"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert results.files(run) == results.files(whole)
        before = [f"from_run={whole}"]


def test_a_stage_that_fails_takes_the_later_ones_with_it(slurm: Cluster, tmp_path: Path) -> None:
    words = ["distill", "stage=1", *WORDS, "then", "2", "time=20"]
    script = subprocess.run([str(LAB), "slurm", "script", *words], capture_output=True, text=True, check=True)
    said = subprocess.run(
        ["sh"], input=script.stdout, env=slurm.environment, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    first, second = re.findall(r"job (\d+)", said.stdout)
    slurm.run("scancel", first)
    assert slurm.wait(second) == "CANCELLED"
