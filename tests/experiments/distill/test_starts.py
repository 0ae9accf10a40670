"""What a stage starts from stays the same when its run goes on, and is looked for only as long as it is needed."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lab.core.errors import RunError
from lab.core.models.decoder import LanguageModel
from lab.core.models.student_format import write_student
from lab.core.runs.record import Run
from lab.experiments.distill.config import DistillConfig
from lab.experiments.distill.job import check
from lab.experiments.distill.load import student_of
from lab.experiments.distill.stage_graph import nodes, students
from lab.experiments.distill.student import own_tensors
from lab.experiments.distill.teacher import digest, load_teacher

Runner = Any
STAGE_2 = ("stage=2", "replicates=2")


class Cut(BaseException):
    """The end of a process."""


def sources(folder: Path) -> list[str]:
    return [Path(note["source"]).parts[-4] for note in json.loads((folder / "stages.json").read_text())["stages"]]


def test_a_run_that_goes_on_keeps_its_source_and_needs_it_no_longer_than_its_students_do(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = runner.run("one", "stage=1", "replicates=2")
    log = Run.log

    def cutting(self: Run, rows: Any) -> None:
        log(self, rows)
        # the first student has begun, the second one has not
        if rows[-1]["kind"] == "train":
            raise Cut

    with monkeypatch.context() as patched:
        patched.setattr(Run, "log", cutting)
        with pytest.raises(Cut):
            runner.run("two", *STAGE_2)
    two = runner.folder("two")
    assert sources(two) == ["one"]

    def checked() -> None:
        check(runner.composed(*STAGE_2), two)

    # of two runs of the stage before, the newest would be taken by a new run
    shutil.copytree(one, runner.folder("newer"))
    (meta,) = [
        path for path in one.glob("checkpoints/*/step_00000004/meta.json") if '"replicate": 1' in path.read_text()
    ]
    content = meta.read_text()
    meta.write_text(f"{content} ")
    with pytest.raises(RunError, match=r"two began from .*one/checkpoints/.*, which holds another student by now"):
        checked()
    meta.write_text(content)
    one.rename(one.with_name("away"))
    with pytest.raises(RunError, match=r"two began from .*one/checkpoints/.*, which is gone; put that back"):
        checked()
    one.with_name("away").rename(one)
    runner.run("two", *STAGE_2)
    assert sources(two) == ["one", "one"]
    for folder in (one, runner.folder("newer")):
        shutil.rmtree(folder)
    checked()
    with pytest.raises(RunError, match="no finished run of it"):
        check(runner.composed(*STAGE_2), runner.folder("three"))


@pytest.mark.parametrize("precision", ["bfloat16", "float32"])
def test_a_student_in_a_folder_goes_on_with_every_digit_beside_a_teacher_in_bfloat16(
    small_config: Callable[..., DistillConfig], tmp_path: Path, precision: str
) -> None:
    config = small_config("stage=2", "teacher.precision=bfloat16", "stage_2.autocast=true")
    teacher = load_teacher(config.teacher, device=torch.device("cpu"), seed=0)
    (node,) = nodes(students(config))

    def started(source: Path | None) -> LanguageModel:
        return student_of(node, source, teacher=teacher, teacher_digest=digest(teacher), config=config)

    student = started(None)
    expected = own_tensors(student)
    for tensor in expected.values():
        tensor += torch.rand(tensor.shape, generator=torch.Generator().manual_seed(0))
    # each tensor in its dtype, or all in one
    whole = student if precision == "bfloat16" else started(None).float()
    for name, tensor in own_tensors(whole).items():
        tensor.copy_(expected[name])
    write_student(tmp_path / "student", whole, teacher=None)
    found = own_tensors(started(tmp_path / "student"))
    assert [name for name, tensor in expected.items() if not tensor.equal(found[name])] == []
    assert {tensor.dtype for tensor in found.values()} == {torch.float32}
