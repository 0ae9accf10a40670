"""One finished run, made once and copied for every test that changes it."""

import os
import subprocess
from pathlib import Path

import pytest

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


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory, lab_command: tuple[str, ...]) -> tuple[Path, str]:
    """The output folder of one finished tiny sweep, not to be changed, and what it printed."""
    outputs = tmp_path_factory.mktemp("finished") / "outputs"
    done = subprocess.run(
        [*lab_command, "hmm-risk", "sweep", *TINY],
        cwd=outputs.parent,
        env={**os.environ, "LAB_OUTPUTS": str(outputs)},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return outputs, done.stdout


@pytest.fixture
def recorded(finished_run: tuple[Path, str], outputs: Path) -> Path:
    """A copy of the finished run, in this test's output folder."""
    subprocess.run(["cp", "-a", str(finished_run[0]), str(outputs)], check=True)
    (folder,) = outputs.glob("hmm_risk/runs/*")
    return folder
