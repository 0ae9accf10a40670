"""Python files of the working folder, with the names of libraries, are not run: not by workers, nor by a loader."""

import os
import subprocess
from pathlib import Path

import pytest
from faults.slurm.conftest import STAGE_1

SWEEP = ("hmm-risk", "sweep", "num_train=20", "widths=[6,10]", "replicates=4", "observation_noise=0.5", "figures=[]")
COMMANDS = {
    "sweep": (*SWEEP, "workers=2"),
    "training": (*STAGE_1, "stage_1.steps=2", "loader=process"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_files_of_the_working_folder_are_not_imported(
    name: str, lab_command: tuple[str, ...], outputs: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "unpacked"
    folder.mkdir()
    for module in ("struct", "random", "numpy", "json", "sitecustomize"):
        (folder / f"{module}.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w')\n")
    # as the console script, the command itself does not look there
    environment = {**os.environ, "PYTHONPATH": ""}
    words = [lab_command[0], "-P", *lab_command[1:], *COMMANDS[name]]
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "executed").exists()
