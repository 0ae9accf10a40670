"""What the README says can be typed, and its links lead somewhere."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()

BLOCKS = re.findall(r"^```sh\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)
COMMANDS = [line for block in BLOCKS for line in block.splitlines()]
# the two commands that work on a fresh machine; .ci/run types them as they stand
FRESH = [command for command in COMMANDS if "venv" in command]

# what is added to a command that would take minutes; the rest of it is typed as it stands
_FEW = " ".join(f"stage_{stage}.{key}" for stage in (1, 2, 3, "teacher") for key in ("steps=4", "batch_size=4"))
_LITTLE = " ".join(f"evaluation.{key}" for key in ("num_batches=1", "batch_size=4", "num_validation_batches=1"))
SHORTER = {
    # ten minutes even so: several of them draw many problems. Two are typed as it types them.
    "lab hmm-risk sweep experiment=hmm_risk/all": "--cfg job && lab hmm-risk sweep -m "
    "+experiment/hmm_risk=f01_headline,f04_total_risk replicates=2 workers=1",
    "lab hmm-risk sweep": "replicates=2 workers=1",
    "lab distill": f"threads=1 {_FEW} {_LITTLE}",
    "lab bench": "--quick --repeats 1",
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
# needs the `slurm` extra and a cluster: the same points run through submitit's local executor
LAUNCHER = re.compile(r"hydra/launcher=slurm_\w+")


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


def typed(command: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    """Run a line as a shell would in the project's root, with the outputs elsewhere."""
    environment = {
        **os.environ,
        "LAB_OUTPUTS": str(folder / "outputs"),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    return subprocess.run(
        ["sh", "-c", command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=900,
        check=False,
    )


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Under the folder where commands are typed; `RUN` stands for its name."""
    folder = tmp_path_factory.mktemp("readme")
    done = typed("lab hmm-risk sweep num_train=20 'widths=[6,40]' replicates=2 workers=1", folder)
    assert done.returncode == 0, done.stderr
    (run,) = (folder / "outputs" / "hmm_risk" / "runs").iterdir()
    return run


@pytest.fixture(scope="module")
def student_run(tmp_path_factory: pytest.TempPathFactory, teacher: Path) -> Path:
    """A distilled run below a folder with pictures a.png and b.png, and `mmmamba-tiny`, its student as a folder."""
    folder = tmp_path_factory.mktemp("student")
    shutil.copytree(teacher, folder / "teacher")
    for name in ("a.png", "b.png"):
        Image.new("L", (28, 28)).save(folder / name)
    done = typed(f"{STUDENT} {_FEW} {_LITTLE}", folder)
    assert done.returncode == 0, done.stderr
    (run,) = (folder / "outputs" / "distill" / "runs").iterdir()
    done = typed(f"lab export {run.name} mmmamba-tiny", folder)
    assert done.returncode == 0, done.stderr
    return run


def test_there_are_two_commands_for_a_fresh_machine() -> None:
    main, tests = FRESH
    assert main.endswith(".venv/bin/lab hmm-risk sweep")
    assert tests.endswith(".venv/bin/python -m pytest -n 2 --dist worksteal")
    assert main.partition("} && ")[0] == tests.partition("} && ")[0]


@pytest.mark.slow
@pytest.mark.parametrize("command", [command for command in COMMANDS if command not in FRESH], ids=str)
def test_a_command_of_the_readme_runs_as_written(
    command: str, finished_run: Path, request: pytest.FixtureRequest
) -> None:
    if "mmmamba-tiny" in command or "STUDENT" in command:
        run = request.getfixturevalue("student_run")
        if "lab export" in command:
            # the folder is there already, for the commands that read it
            command = f"rm -r mmmamba-tiny && {command}"
        done = typed(command.replace("STUDENT", run.name), run.parents[3])
        assert done.returncode == 0, done.stderr
        return
    if LAUNCHER.search(command):
        pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
        command = LAUNCHER.sub("hydra/launcher=submitit_local", command)
    for line in [*_before(command), command]:
        done = typed(shortened(line.replace("RUN", finished_run.name)), finished_run.parents[3])
        assert done.returncode == 0, done.stderr


def test_the_readme_shows_every_command() -> None:
    commands = [
        "runs",
        "show",
        "report",
        "doctor",
        "bench",
        "export",
        "generate",
        "slurm script",
        "hmm-risk sweep --help",
    ]
    assert [command for command in commands if f"lab {command}" not in README] == []
