"""What the README says can be typed, and its links lead somewhere."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()

BLOCKS = re.findall(r"^```sh\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)
COMMANDS = [line for block in BLOCKS for line in block.splitlines()]
# the two commands that work on a fresh machine; .ci/run types them as they stand
FRESH = [command for command in COMMANDS if "venv" in command]

# what is added to a command that would take minutes; the rest of it is typed as it stands
_FEW = " ".join(f"stage_{stage}.{key}" for stage in (1, 2, 3, "teacher") for key in ("steps=2", "batch_size=2"))
_LITTLE = " ".join(f"evaluation.{key}" for key in ("num_batches=1", "batch_size=2", "num_validation_batches=1"))
SHORTER = {
    # ten minutes even so: several of them draw many problems. Two are typed as it types them.
    "lab hmm-risk sweep experiment=hmm_risk/all": "--cfg job && lab hmm-risk sweep -m "
    "+experiment/hmm_risk=f01_headline,f04_total_risk replicates=2 workers=1",
    "lab hmm-risk sweep": "replicates=2 workers=1",
    "lab distill experiment=": f"replicates=1 threads=1 {_FEW} {_LITTLE}",
    "lab distill": f"threads=1 {_FEW} {_LITTLE}",
    "lab probe": "draws=2 folds=0 threads=1",
    "lab eval": "limit=3 resamples=20 threads=1",
}
# what must have been typed before
BEFORE = {
    "lab distill stage=2": "lab distill stage=1",
    "lab distill stage=3": "lab distill stage=2",
    "lab distill experiment=distill/named_digits": next(
        line for line in COMMANDS if "stage=teacher teacher=named_digits" in line
    ),
}
# a run of seconds on a teacher with random weights: `STUDENT` stands for its name
STUDENT = "lab distill teacher.path=teacher teacher.hovle=null stage=all threads=1 'figures=[]'"
# typed there, and what they write is looked at
BENCHMARKS = [command for command in COMMANDS if command.startswith("lab bench")]
TESTS_OF_BENCHMARKS = ROOT / "tests" / "experiments" / "bench"
# needs the `slurm` extra and a cluster: the same points run through submitit's local executor
LAUNCHER = re.compile(r"hydra/launcher=slurm_\w+")
# what is left to a shell and a new interpreter: the others are words in front of a process that has everything loaded
NEEDS_SHELL = re.compile(r"[><|$*~;]|hydra/launcher=")


def shortened(command: str) -> str:
    for start, more in SHORTER.items():
        if command.startswith(start) and "--cfg" not in command and "resume=" not in command:
            return f"{command} {more}"
    return command


def _before(command: str) -> list[str]:
    for start, earlier in BEFORE.items():
        if command.startswith(start):
            return [*_before(earlier), earlier]
    return []


@pytest.fixture(scope="module")
def typed(forked_lab: Callable[..., Any]) -> Callable[[str, Path], None]:
    """Run a line as a shell would in a folder in the place of the project's root, with the outputs below it."""

    def run(line: str, folder: Path) -> None:
        outputs = {"LAB_OUTPUTS": str(folder / "outputs")}
        for command in line.split(" && "):
            first, *words = shlex.split(command)
            if first == "lab" and not NEEDS_SHELL.search(command):
                done = forked_lab(*words, cwd=folder, env=outputs)
                assert done.code == 0, done.err
                continue
            path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
            shell = subprocess.run(
                ["sh", "-c", command],
                cwd=folder,
                env={**os.environ, **outputs, "PATH": path},
                capture_output=True,
                text=True,
                stdin=subprocess.DEVNULL,
                timeout=900,
                check=False,
            )
            assert shell.returncode == 0, shell.stderr

    return run


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory: pytest.TempPathFactory, typed: Callable[[str, Path], None]) -> Path:
    """Under the folder where commands are typed, with features.npz; `RUN` stands for its name."""
    folder = tmp_path_factory.mktemp("readme")
    rng = np.random.default_rng(0)
    features = rng.standard_normal((1000, 40))
    np.savez(folder / "features.npz", features=features, labels=features[:, 0] + rng.standard_normal(1000) > 0)
    typed("lab hmm-risk sweep num_train=20 'widths=[6,40]' replicates=2 workers=1", folder)
    (run,) = (folder / "outputs" / "hmm_risk" / "runs").iterdir()
    return run


@pytest.fixture(scope="module")
def earlier() -> set[str]:
    """Commands that were typed beside the finished run."""
    return set()


@pytest.fixture(scope="module")
def student_run(tmp_path_factory: pytest.TempPathFactory, teacher: Path, typed: Callable[[str, Path], None]) -> Path:
    """A distilled run, with a.png, b.png, prompts.jsonl and `mmmamba-tiny`, its student as a folder, beside it."""
    folder = tmp_path_factory.mktemp("student")
    shutil.copytree(teacher, folder / "teacher")
    for name in ("a.png", "b.png"):
        Image.new("L", (28, 28)).save(folder / name)
    (folder / "prompts.jsonl").write_text('{"prompt": "How many pictures show a bag?", "images": ["a.png"]}\n')
    typed(f"{STUDENT} {_FEW} {_LITTLE}", folder)
    (run,) = (folder / "outputs" / "distill" / "runs").iterdir()
    typed(f"lab export {run.name} mmmamba-tiny", folder)
    return run


def test_there_are_two_commands_for_a_fresh_machine() -> None:
    main, tests = FRESH
    assert main.endswith(".venv/bin/lab hmm-risk sweep")
    assert tests.endswith(".venv/bin/python -m pytest -n 2 --dist worksteal")
    assert main.partition("} && ")[0] == tests.partition("} && ")[0]


@pytest.mark.slow
@pytest.mark.parametrize("command", [each for each in COMMANDS if each not in (*FRESH, *BENCHMARKS)], ids=str)
def test_a_command_of_the_readme_runs_as_written(
    command: str,
    finished_run: Path,
    typed: Callable[[str, Path], None],
    earlier: set[str],
    request: pytest.FixtureRequest,
) -> None:
    if "mmmamba-tiny" in command or "STUDENT" in command:
        run = request.getfixturevalue("student_run")
        if "--format transformers" in command:
            pytest.importorskip("transformers")
        elif "lab export" in command:
            # the folder is there already, for the commands that read it
            command = f"rm -r mmmamba-tiny && {command}"
        typed(shortened(command.replace("STUDENT", run.name)), run.parents[3])
        return
    if LAUNCHER.search(command):
        pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
        command = LAUNCHER.sub("hydra/launcher=submitit_local", command)
    for line in [*(line for line in _before(command) if line not in earlier), command]:
        typed(shortened(line.replace("RUN", finished_run.name)), finished_run.parents[3])
        earlier.add(line)


def test_every_benchmark_is_typed_by_a_test_of_it() -> None:
    typed_there = "".join(path.read_text() for path in TESTS_OF_BENCHMARKS.glob("test_*.py")).replace("'", '"')
    assert BENCHMARKS
    for command in BENCHMARKS:
        _, _, name = command.split(" ")
        assert f'"bench", "{name}", ' in typed_there, command


def test_the_readme_shows_every_command() -> None:
    commands = [
        "runs",
        "show",
        "report",
        "doctor",
        "bench",
        "export",
        "generate",
        "eval",
        "probe",
        "slurm script",
        "hmm-risk sweep --help",
    ]
    assert [command for command in commands if f"lab {command}" not in README] == []
