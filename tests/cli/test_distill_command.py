"""`lab distill` as it is typed."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

Lab = Callable[..., Any]


def arguments(teacher: Path, *more: str, steps: int = 2) -> list[str]:
    stages = [f"stage_{stage}.{key}" for stage in (1, 2, 3) for key in (f"steps={steps}", "batch_size=2")]
    sizes = ["num_batches=1", "batch_size=2", "num_validation_batches=1"]
    evaluation = [f"evaluation.{size}" for size in sizes]
    return ["distill", f"teacher.path={teacher}", "teacher.hovle=null", *stages, *evaluation, "threads=1", *more]


def check_refused(done: Any, *words: str) -> None:
    """One line that names key and value, and exit code 2."""
    assert done.code == 2, done.err
    assert done.err.startswith("lab: ")
    assert done.err.count("\n") == 1
    for word in words:
        assert word in done.err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), ("stage must be given; write stage=VALUE",)),
        (("stage=5",), ("stage=5", "teacher, 1, 2, 3, all")),
        (("stage=all", "stage_1.stepz=3"), ("stage_1.stepz", "steps")),
        (("stage=2",), ("stage=2", "lab distill stage=1")),
        (("stage=all", "student=nice"), ("student/nice", "linear")),
        (("stage=all", "loader=thread"), ("loader", "thread", "auto, process, inline")),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    typed: Lab, outputs: Path, teacher: Path, words: tuple[str, ...], says: tuple[str, ...]
) -> None:
    check_refused(typed(*arguments(teacher, *words)), *says)
    assert not outputs.exists()


@pytest.mark.slow
def test_bad_input_as_typed_is_one_line_and_leaves_nothing(lab: Lab, outputs: Path, teacher: Path) -> None:
    check_refused(lab(*arguments(teacher, "stage=2")), "stage=2", "lab distill stage=1")
    # every sample is skipped with a warning
    check_refused(lab(*arguments(teacher, "stage=1", "prompt.system=hats")), "'hats'", "use other words")
    assert not outputs.exists()


@pytest.mark.slow
def test_a_loss_that_is_no_number_is_one_line_and_the_run_is_marked(lab: Lab, outputs: Path, teacher: Path) -> None:
    done = lab(*arguments(teacher, "stage=1", "stage_1.learning_rate=1e6", steps=9))
    check_lines = [line for line in done.err.splitlines() if line.startswith("lab: ")]
    assert done.code == 2
    assert len(check_lines) == 1
    assert "lower stage_1.learning_rate=1e+06" in check_lines[0]
    (status,) = outputs.glob("distill/runs/*/status.json")
    assert json.loads(status.read_text())["status"] == "failed"


@pytest.mark.slow
def test_loops_that_cannot_be_compiled_are_said_and_recorded(
    lab: Lab, outputs: Path, teacher: Path, tmp_path: Path
) -> None:
    without = {"CXX": "/nonexistent", "XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = lab(*arguments(teacher, "stage=1", "figures=[]", steps=2), env=without)
    assert done.code == 0, done.err
    (line,) = (line for line in done.err.splitlines() if line.startswith("lab: "))
    assert line.startswith(
        "lab: ssd, causal_conv, divergence, fused in torch, slower and with other last digits: no C++"
    )
    (folder,) = outputs.glob("distill/runs/*")
    assert json.loads((folder / "provenance.json").read_text())["backends"]["ssd"] == "chunked, in torch"
    done = lab("distill", f"resume={folder.name}")
    assert done.code == 2
    assert "would go on with other last digits: compiler is" in done.err
    assert "ssd is chunked, was chunked, in torch" in done.err
    done = lab("distill", f"resume={folder.name}", "resume_on=different")
    assert done.code == 0, done.err
    assert "goes on with other last digits (resume_on=different)" in done.err


@contextmanager
def training(command: tuple[str, ...], outputs: Path, teacher: Path, *more: str) -> "Iterator[subprocess.Popen[str]]":
    """A run of all stages in the middle of the first, which is long."""
    with subprocess.Popen(
        [*command, *arguments(teacher, "stage=all", "figures=[]", "stage_1.steps=150", *more)],
        cwd=outputs.parent,
        env={**os.environ, "LAB_OUTPUTS": str(outputs)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        # a shell makes what it starts in the background ignore Ctrl-C, these tests included
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        try:
            deadline = time.monotonic() + 300
            while not any('"train"' in path.read_text() for path in outputs.glob("distill/runs/*/metrics.jsonl")):
                assert time.monotonic() < deadline
                time.sleep(0.05)
            yield process
        finally:
            process.kill()


def loader_of(process: "subprocess.Popen[str]") -> int:
    """The process that makes the batches of a run."""
    (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return int(child)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "loader"), [(signal.SIGINT, "process"), (signal.SIGTERM, "inline"), (signal.SIGUSR2, "process")]
)
def test_a_signal_ends_a_run_that_resume_goes_on_with(
    lab: Lab, lab_command: tuple[str, ...], outputs: Path, teacher: Path, number: int, loader: str
) -> None:
    with training(lab_command, outputs, teacher, f"loader={loader}") as process:
        if loader == "process":
            # from a terminal or a cluster a signal reaches every process
            os.kill(loader_of(process), number)
        process.send_signal(number)
        _, said = process.communicate(timeout=300)
    assert process.returncode == 130
    assert "lab: interrupted; what is recorded is kept, and resume=RUN goes on" in said
    (folder,) = outputs.glob("distill/runs/*")
    assert json.loads((folder / "status.json").read_text())["status"] == "interrupted"
    (node,) = (folder / "checkpoints").iterdir()
    last = max(int(path.name.removeprefix("step_")) for path in node.iterdir())
    assert 0 < last < 150
    done = lab("distill", f"resume={folder.name}")
    assert done.code == 0, done.err
    assert json.loads((folder / "status.json").read_text())["status"] == "finished"
    assert lab("show", folder.name).code == 0


@pytest.mark.slow
def test_a_loader_that_was_killed_is_one_line_and_resume_goes_on(
    lab: Lab, lab_command: tuple[str, ...], outputs: Path, teacher: Path
) -> None:
    with training(lab_command, outputs, teacher, "loader=process") as process:
        os.kill(loader_of(process), signal.SIGKILL)
        _, said = process.communicate(timeout=300)
    assert process.returncode == 2
    (line,) = (line for line in said.splitlines() if line.startswith("lab: "))
    assert "was killed by SIGKILL" in line
    assert "loader=inline" in line
    assert "Traceback" not in said
    (folder,) = outputs.glob("distill/runs/*")
    assert json.loads((folder / "status.json").read_text())["status"] == "failed"
    done = lab("distill", f"resume={folder.name}", "loader=inline")
    assert done.code == 0, done.err
