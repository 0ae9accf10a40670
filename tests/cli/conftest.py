"""Finished runs, made once; what a test changes, it copies."""

import logging
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from typer.testing import CliRunner

from lab.cli.main import app
from lab.experiments.distill.config import register
from lab.experiments.distill.job import execute

TINY = (
    "num_train=20",
    "widths=[4,10,40]",
    "replicates=2",
    "observation_noise=0.5",
    "figures=[excess_risk]",
    "workers=1",
)


@pytest.fixture(scope="session")
def tiny() -> tuple[str, ...]:
    """What is typed behind `lab hmm-risk sweep` for a run of a second."""
    return TINY


@dataclass(frozen=True, slots=True)
class Said:
    """What a command said, in this process."""

    code: int
    out: str
    err: str


def run_here(*words: str) -> Said:
    """A command line as it is typed, in this process, which has loaded torch and Hydra already."""
    root = logging.getLogger()
    before = list(root.handlers), root.level
    try:
        done = CliRunner().invoke(app, list(words))
    finally:
        # a Hydra job logs to the output of the command, which is closed now, and to a file
        for handler in set(root.handlers) - set(before[0]):
            handler.close()
        root.handlers[:] = before[0]
        root.setLevel(before[1])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return Said(done.exit_code, done.stdout, done.stderr)


@pytest.fixture
def typed() -> Callable[..., Said]:
    """See `run_here`."""
    return run_here


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The output folder of one finished tiny sweep, not to be changed, and what it printed."""
    outputs = tmp_path_factory.mktemp("finished") / "outputs"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(outputs.parent)
        patch.setenv("LAB_OUTPUTS", str(outputs))
        done = run_here("hmm-risk", "sweep", *TINY)
    assert done.code == 0, done.err
    return outputs, done.out


@pytest.fixture
def recorded(finished_run: tuple[Path, str], outputs: Path) -> Path:
    """A copy of the finished run, in this test's output folder."""
    subprocess.run(["cp", "-a", str(finished_run[0]), str(outputs)], check=True)
    (folder,) = outputs.glob("hmm_risk/runs/*")
    return folder


@dataclass(frozen=True, slots=True)
class Distilled:
    """Runs of a few steps in an output folder.

    Attributes:
        root: the output folder.
        teacher: a checkpoint folder of the same teacher for all of them.
    """

    root: Path
    teacher: Path

    def run(self, name: str, *overrides: str) -> Path:
        """Make one; where it is."""
        sizes = ("num_batches=1", "batch_size=4", "num_validation_batches=1")
        small = [f"teacher.path={self.teacher}", "teacher.hovle=null", "threads=1", "figures=[]"]
        small += [f"stage_{stage}.{key}" for stage in (1, 2, 3) for key in ("steps=2", "batch_size=2")]
        register()
        with initialize_config_module("lab.conf", version_base="1.3"):
            config = compose("distill", overrides=[*small, *(f"evaluation.{size}" for size in sizes), *overrides])
        folder = self.root / "distill" / "runs" / name
        execute(config, folder, list(overrides))
        return folder


@pytest.fixture(scope="session")
def distilled(tmp_path_factory: pytest.TempPathFactory, teacher: Path) -> Distilled:
    """Finished runs, not to be changed: `hybrid` of all stages, `first` and `second` of a linear student, `several`."""
    runs = Distilled(tmp_path_factory.mktemp("distilled") / "outputs", teacher)
    runs.run("hybrid", "stage=all", "student=hybrid", "student.hybrid.number=2")
    runs.run("first", "stage=1")
    runs.run("second", "stage=2", f"from_run={runs.root}/distill/runs/first")
    runs.run(
        "several", "stage=all", "stages=[1]", "replicates=2", "+variants={a:{},b:{student:{initialisation:scratch}}}"
    )
    return runs
