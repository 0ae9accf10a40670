"""What all tests share: one BLAS thread, reproducible properties, an output folder, and the command as it is typed."""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import hypothesis
import pytest

# before numpy or torch is imported: with more threads a busy machine is many times slower
for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_variable] = "1"

# a red build can be repeated; a shared machine makes single examples slow
hypothesis.settings.register_profile("lab", derandomize=True, deadline=None)
hypothesis.settings.load_profile("lab")

COMMAND = (sys.executable, "-c", "from lab.cli.main import main; main()")


@dataclass(frozen=True, slots=True)
class Finished:
    """What a command left behind."""

    code: int
    out: str
    err: str


@pytest.fixture
def outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The output folder of commands in this test; not made yet."""
    folder = tmp_path / "outputs"
    monkeypatch.setenv("LAB_OUTPUTS", str(folder))
    return folder


@pytest.fixture(scope="session")
def lab_command() -> tuple[str, ...]:
    """The words in front of the arguments, for a test that starts the process itself."""
    return COMMAND


@pytest.fixture
def lab(outputs: Path, tmp_path: Path) -> Callable[..., Finished]:
    """Run the command in a process of its own, in an empty folder unless told otherwise."""

    def run(*arguments: str, cwd: Path = tmp_path, env: Mapping[str, str] | None = None) -> Finished:
        done = subprocess.run(
            [*COMMAND, *arguments],
            cwd=cwd,
            env={**os.environ, **(env or {})},
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=300,
            check=False,
        )
        return Finished(done.returncode, done.stdout, done.stderr)

    return run
