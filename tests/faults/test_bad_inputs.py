"""Bad inputs of every command and every file: refused in one line, exit code 2, soon, with nothing written."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults import bad_inputs, bad_inputs_files
from faults.refusals import Commands, report
from faults.share import every

from lab.experiments.distill.teacher import SHIPPED_FOLDER

# of the whole table; the others are listed
LEAST_SHARE = 0.99


@pytest.fixture
def commands(tmp_path: Path, command_server: "subprocess.Popen[str]") -> Commands:
    """Commands in an empty folder."""
    folder = tmp_path / "empty"
    folder.mkdir()
    return Commands(command_server, folder)


def every_case(folder: Path) -> Iterator[tuple[str, ...]]:
    """All command lines, with the files that they read."""
    for case in (*bad_inputs.cases(), *bad_inputs_files.cases(folder)):
        yield tuple(word.replace("TEACHER", str(SHIPPED_FOLDER)) for word in case.words)


def faults_of(commands: Commands, words: list[tuple[str, ...]]) -> list[tuple[tuple[str, ...], str]]:
    found = ((line, commands.left_by(line).fault()) for line in words)
    return [(line, fault) for line, fault in found if fault is not None]


@pytest.mark.slow
def test_bad_inputs_are_refused_in_one_line(commands: Commands, tmp_path: Path) -> None:
    table = list(every_case(tmp_path / "files"))
    assert len(table) >= 400
    words = every(16, table)
    faults = faults_of(commands, words)
    text = report(faults, len(words))
    assert len(words) - len(faults) >= LEAST_SHARE * len(words), text
