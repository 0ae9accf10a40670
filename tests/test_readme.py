"""What the README says can be typed, and its links lead somewhere."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()

BLOCKS = re.findall(r"^```sh\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)
COMMANDS = [line for block in BLOCKS for line in block.splitlines()]
# the two commands that work on a fresh machine; .ci/run types them as they stand
FRESH = [command for command in COMMANDS if "venv" in command]

# what is added to a command that would take minutes; the rest of it is typed as it stands
SHORTER = {
    "lab hmm-risk sweep": "replicates=2 workers=1 population_sequences=2000",
    "lab bench": "--quick --repeats 1",
}
# needs the `slurm` extra and a cluster: the same points run through submitit's local executor
LAUNCHER = re.compile(r"hydra/launcher=slurm_\w+")


def shortened(command: str) -> str:
    for start, more in SHORTER.items():
        if command.startswith(start) and "--cfg" not in command and "resume=" not in command:
            return f"{command} {more}"
    return command


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


def test_there_are_two_commands_for_a_fresh_machine() -> None:
    main, tests = FRESH
    assert main.endswith(".venv/bin/lab hmm-risk sweep")
    assert tests.endswith(".venv/bin/python -m pytest")
    assert main.partition("} && ")[0] == tests.partition("} && ")[0]


@pytest.mark.slow
@pytest.mark.parametrize("command", [command for command in COMMANDS if command not in FRESH])
def test_a_command_of_the_readme_runs_as_written(command: str, finished_run: Path) -> None:
    if LAUNCHER.search(command):
        pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
        command = LAUNCHER.sub("hydra/launcher=submitit_local", command)
    done = typed(shortened(command.replace("RUN", finished_run.name)), finished_run.parents[3])
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("link", re.findall(r"\]\((?!https?:)([^)#]+)\)", README))
def test_a_link_of_the_readme_leads_somewhere(link: str) -> None:
    assert (ROOT / link).exists()


@pytest.mark.parametrize("command", ["runs", "show", "doctor", "bench", "hmm-risk sweep --help"])
def test_the_readme_shows_every_command(command: str) -> None:
    assert f"lab {command}" in README
