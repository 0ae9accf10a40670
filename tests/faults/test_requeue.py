"""A Slurm job that is requeued goes on where it was killed, as far as its environment tells: no Slurm is needed."""

import os
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from faults.slurm.conftest import STAGE_1

SWEEP = ("hmm-risk", "sweep", "num_train=40", "widths=[4,8,80]", "replicates=40", "observation_noise=0.5", "figures=[]")
# the command, where its runs are, and how many rows the last of them has when it is killed
COMMANDS = {
    "one sweep": ((*SWEEP, "workers=1"), "hmm_risk/runs/job-77*", 20),
    "several sweeps": ((*SWEEP, "workers=1", "snr=[2.0],[3.0]", "-m"), "hmm_risk/sweeps/job-77*/1", 20),
    "trainings": ((*STAGE_1, "figures=[]", "seed=1,2", "-m"), "distill/sweeps/job-77*/1", 8),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_a_requeued_job_goes_on_with_its_own_runs(
    name: str, lab_command: tuple[str, ...], outputs: Path, tmp_path: Path
) -> None:
    words, runs, num_rows = COMMANDS[name]
    environment = {**os.environ, "SLURM_JOB_ID": "77"}

    def start(env: Mapping[str, str]) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [*lab_command, *words], env=env, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )

    with start(environment) as process:
        deadline = time.monotonic() + 200
        while sum(path.read_bytes().count(b"\n") for path in outputs.glob(f"{runs}/metrics.jsonl")) < num_rows:
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
    recorded = {path: path.read_bytes() for path in outputs.rglob("metrics.jsonl")}
    folders = set(outputs.rglob("job-77*"))
    with start({**environment, "SLURM_RESTART_COUNT": "1"}) as process:
        _, said = process.communicate()
    assert process.returncode == 0, said
    assert "lab: job 77 goes on in" in said
    assert set(outputs.rglob("job-77*")) == folders
    for path, lines in recorded.items():
        first = lines.splitlines()[: max(2, num_rows // 2)]
        assert path.read_bytes().splitlines()[: len(first)] == first
    tables = sorted(outputs.rglob("table.parquet"))
    assert len(tables) == len(recorded)
