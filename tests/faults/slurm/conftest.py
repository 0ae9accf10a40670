"""A cluster for the session, what is run on it, and random moments that can be drawn again."""

import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from faults.slurm.cluster import Cluster, cluster, why_not

from drawn import SEED

LAB = Path(sys.executable).parent / "lab"
# 20 s of work in small units
SWEEP = ("hmm-risk", "sweep", "num_train=120", "widths=[30,60,120,240]", "replicates=600", "workers=1", "figures=[]")
_FEW = "evaluation.num_batches=1 evaluation.batch_size=4 evaluation.num_validation_batches=1 figures=[] threads=1"
STAGE_1 = ("distill", "stage=1", "stage_1.steps=60", "stage_1.batch_size=8", *_FEW.split())

# Longer than a grace time, which the controller ends up to half a minute late, on a fast machine too.
LONGER = {
    SWEEP: (*SWEEP[:-3], "replicates=5000", *SWEEP[-2:]),
    STAGE_1: (*STAGE_1[:2], "stage_1.steps=800", *STAGE_1[3:]),
}


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The cluster; one line and the end of the tests where there can be none."""
    reason = why_not()
    if reason is not None:
        pytest.exit(reason, returncode=1)
    with cluster(tmp_path_factory.mktemp("slurm")) as found:
        yield found


@pytest.fixture
def moments(request: pytest.FixtureRequest) -> random.Random:
    """Draws a test's moments; LAB_TEST_SEED repeats them."""
    return random.Random(f"{SEED} {request.node.name}")


@dataclass
class Results:
    """The files that must be equal, of a run in a directory."""

    folder: Path

    def files(self, run: Path) -> dict[str, bytes]:
        """The table of a sweep; the weights of a training."""
        weights = sorted(run.glob("checkpoints/*/*/model.safetensors"))
        found = weights or [run / "table.parquet"]
        return {str(path.relative_to(run)): path.read_bytes() for path in found}

    def runs(self) -> list[Path]:
        """Directories of runs."""
        return sorted({path.parent for path in self.folder.rglob("status.json")})


@pytest.fixture
def results(tmp_path: Path) -> Results:
    """Of the jobs of this test."""
    return Results(tmp_path / "outputs")


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, bytes]]:
    """What a command ends with that nobody disturbs; computed once."""
    known: dict[tuple[str, ...], dict[str, bytes]] = {}

    def run(*words: str) -> dict[str, bytes]:
        if words not in known:
            folder = tmp_path_factory.mktemp("whole")
            command = [str(LAB), *words, f"hydra.run.dir={folder}/run"]
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            known[words] = Results(folder).files(folder / "run")
        return known[words]

    return run


def wait_for_rows(folder: Path, number: int, seconds: float = 300) -> None:
    """Wait until a run below a folder has recorded rows."""
    deadline = time.monotonic() + seconds
    while not any(path.read_bytes().count(b"\n") >= number for path in folder.rglob("metrics.jsonl")):
        assert time.monotonic() < deadline, "nothing is recorded"
        time.sleep(0.1)
