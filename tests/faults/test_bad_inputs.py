"""Bad inputs of every command and every file: refused in one line, exit code 2, soon, with nothing written."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults import bad_inputs, bad_inputs_data, bad_inputs_eval, bad_inputs_files, bad_inputs_prompts
from faults.bad_inputs import Case
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


@pytest.fixture
def runs(tmp_path: Path, commands: Commands, teacher: Path) -> Path:
    """A folder with an evaluation and a distillation that have ended, `eval` and `distill`."""
    folder = tmp_path / "runs"
    small = ("teacher.hovle=null", f"teacher.path={teacher}", "evaluation.num_batches=1", "evaluation.batch_size=2")
    for command, *words in (
        ("eval", "shipped", "picture_questions:2", "resamples=50"),
        ("distill", "stage=1", *small, "stage_1.steps=1", "stage_1.batch_size=2", "threads=1"),
    ):
        done = commands.left_by((command, *words, "figures=[]", f"hydra.run.dir={folder / command}"))
        assert done.code == 0, done.err
    return folder


def every_case(folder: Path, runs: Path) -> Iterator[Case]:
    """All command lines, with the files that they read."""
    cases = (*bad_inputs.cases(), *bad_inputs_files.cases(folder / "files"), *bad_inputs_data.cases(folder / "data"))
    cases = (*cases, *bad_inputs_eval.cases(folder / "eval", runs / "eval"), *_of_prompts(folder / "prompts", runs))
    for case in cases:
        yield case._replace(words=tuple(word.replace("TEACHER", str(SHIPPED_FOLDER)) for word in case.words))


def _of_prompts(folder: Path, runs: Path) -> Iterator[Case]:
    pytest.importorskip("tokenizers")
    from reference.text_checkpoint import write_text_checkpoint  # noqa: PLC0415

    yield from bad_inputs_prompts.cases(folder, write_text_checkpoint(folder / "model"), runs / "distill")


def faults_of(commands: Commands, cases: list[Case]) -> list[tuple[tuple[str, ...], str]]:
    found = ((case.words, commands.left_by(case.words).fault(may_print=case.may_print)) for case in cases)
    return [(line, fault) for line, fault in found if fault is not None]


@pytest.mark.slow
def test_bad_inputs_are_refused_in_one_line(commands: Commands, tmp_path: Path, runs: Path) -> None:
    table = list(every_case(tmp_path, runs))
    assert len(table) >= 400
    cases = every(24, table)
    faults = faults_of(commands, cases)
    text = report(faults, len(cases))
    # shown by pytest -rP
    print(text)
    assert len(cases) - len(faults) >= LEAST_SHARE * len(cases), text
