"""Commands that are killed at random moments, and typed again, end with what one ends with that was not killed.

A third of the commands is killed once each. LAB_TEST_KILLS sets how many kills there are in total, of all commands;
LAB_TEST_SEED repeats the moments of another run.
"""

import contextlib
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from drawn import SEED, one_in
from reference.tiny_gguf import write_gguf

pytestmark = pytest.mark.slow

KILLS = os.environ.get("LAB_TEST_KILLS")
# Python's own process that watches over semaphores says that it was killed, and the one in its place that it knows none
TRACKER = re.compile(
    r"Traceback \(most recent call last\):\n"
    r'  File "[^"]*/multiprocessing/resource_tracker\.py".*\n'
    r"(?:  .*\n)*KeyError: .*"
)
# a command that is killed again and again is left alone in the end
MOST_KILLS_A_RUN = 3

SWEEP = ("hmm-risk", "sweep", "num_train=100", "widths=[20,60,100,200]", "replicates=40", "figures=[excess_risk]")
SHORT = ("hmm-risk", "sweep", "num_train=40,60", "widths=[10,40,80]", "replicates=20", "figures=[]", "workers=1")
STEPS = [f"stage_{stage}.{key}" for stage in (1, 2, 3) for key in ("steps=12", "batch_size=2", "checkpoint_every=3")]
SIZES = [f"evaluation.{size}" for size in ("num_batches=2", "batch_size=4", "num_validation_batches=1")]
FEW = ("threads=1", "figures=[]", "resamples=200", "max_new_tokens=6", "baselines=[chance,image_ablated]")
DISTILL = ("distill", "teacher.hovle=null", "threads=1", "figures=[loss]", *STEPS, *SIZES)


@dataclass(frozen=True, slots=True)
class Scene:
    """A command, with {out} for the folder it writes, {teacher} and {first} for what it starts from.

    Attributes:
        words: behind `lab`.
        victims: what a kill may hit: the command, one of the processes it started, or all of them.
        is_result: whether a file below {out} must be equal, byte for byte.
        is_done: whether {out} is whole, and the command would not be typed again.
        once: keys by which a recorded row with all of them is known; none may be there twice.
    """

    words: tuple[str, ...]
    victims: tuple[str, ...] = ("command",)
    is_result: Callable[[Path], bool] = lambda path: path.name == "table.parquet" or path.suffix == ".safetensors"
    is_done: Callable[[Path], bool] = lambda out: False
    once: tuple[str, ...] = ()


def stage(number: str, *more: str) -> tuple[str, ...]:
    return (*DISTILL, f"stage={number}", "teacher.path={teacher}", "hydra.run.dir={out}", *more)


ALL = ("command", "child", "group")
SCENES = {
    "sweep": Scene((*SWEEP, "workers=1", "hydra.run.dir={out}")),
    "sweep of two workers": Scene((*SWEEP, "workers=2", "hydra.run.dir={out}"), ALL),
    "several sweeps": Scene((*SHORT, "-m", "hydra.sweep.dir={out}")),
    "stage 1": Scene(stage("1", "loader=process"), ALL),
    "stage 2": Scene(stage("2", "from_run={first}")),
    "stage 3": Scene(stage("3", "from_run={first}", "stages=[1,3]")),
    "hybrid": Scene(stage("all", "student=hybrid", "student.hybrid.number=1")),
    "teacher": Scene(
        (
            "distill",
            "stage=teacher",
            "recipe=named_digits",
            "teacher=named_digits",
            "data=named_digits",
            "stage_teacher.steps=12",
            "stage_teacher.batch_size=4",
            "stage_teacher.checkpoint_every=3",
            *SIZES,
            "threads=1",
            "figures=[]",
            "hydra.run.dir={out}",
        )
    ),
    "evaluation": Scene(
        ("eval", "{teacher}", "{first}", "picture_questions:40", "against={teacher}", *FEW, "hydra.run.dir={out}"),
        is_result=lambda path: path.name == "table.parquet" or path.suffix == ".tsv",
        once=("model", "task", "place"),
    ),
    "export": Scene(
        ("export", "{first}", "{out}/student"),
        is_result=lambda path: True,
        is_done=lambda out: (out / "student").exists(),
    ),
    "export of a GGUF file": Scene(
        ("export", "{served}", "{out}/student.gguf", "--format", "gguf"),
        is_result=lambda path: True,
        is_done=lambda out: (out / "student.gguf").exists(),
    ),
    "export of a stock model": Scene(
        ("export", "{first}", "{out}/student", "--format", "transformers"),
        is_result=lambda path: True,
        is_done=lambda out: (out / "student").exists(),
    ),
}


class Workshop:
    """Runs commands with everything they need, and whole ones to compare with."""

    def __init__(self, root: Path, command: tuple[str, ...], teacher: Path) -> None:
        self.root, self.command, self.teacher = root, command, teacher
        self.first, self.served = root / "first", root / "served"
        self.wholes: dict[str, tuple[dict[str, str], float]] = {}

    def start(self, scene: Scene, out: Path) -> "subprocess.Popen[str]":
        places = {"out": out, "teacher": self.teacher, "first": self.first, "served": self.served}
        words = [word.format(**places) if word.startswith(tuple(WITH_PLACES)) else word for word in scene.words]
        return subprocess.Popen(
            [*self.command, *words],
            cwd=self.root,
            env={**os.environ, "LAB_OUTPUTS": str(self.root / "outputs")},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def finish(self, scene: Scene, out: Path) -> float:
        began = time.monotonic()
        process = self.start(scene, out)
        _, said = process.communicate(timeout=600)
        assert process.returncode == 0, said
        return time.monotonic() - began

    def whole(self, name: str) -> tuple[dict[str, str], float]:
        """The results of a command that was not killed, and the seconds that it took."""
        if "{served}" in SCENES[name].words and not self.served.exists():
            self._serve()
        if name not in self.wholes:
            out = self.root / "whole" / name.replace(" ", "_")
            out.parent.mkdir(exist_ok=True)
            seconds = self.finish(SCENES[name], out)
            self.wholes[name] = results(SCENES[name], out), seconds
        return self.wholes[name]

    def _serve(self) -> None:
        """A run whose student llama.cpp can hold."""
        pytest.importorskip("gguf", reason="gguf is not installed")
        for folder in ("text_teacher", "texts"):
            (self.root / folder).mkdir()
        write_gguf(self.root / "text_teacher" / "tiny.gguf", num_layers=2)
        for number in range(30):
            (self.root / "texts" / f"{number}.txt").write_text("which bag is it? " * (20 + number))
        path, texts = self.root / "text_teacher" / "tiny.gguf", self.root / "texts"
        words = ("distill", "stage=all", "student=serving", "student.hybrid.number=2", "teacher=llama", "data=text")
        places = (f"teacher.path={path}", f"data.text.folder={texts}", "hydra.run.dir={served}")
        few = [f"stage_{stage}.{key}" for stage in (1, 2, 3) for key in ("steps=2", "batch_size=2")]
        more = ("data.text.piece_length=24", "threads=1", "figures=[]", *few, *SIZES)
        self.finish(Scene((*words, *places, *more)), self.served)


WITH_PLACES = ("{", "against={", "teacher.path={", "hydra.run.dir={", "hydra.sweep.dir={", "from_run={")


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory, lab_command: tuple[str, ...], teacher: Path) -> Workshop:
    made = Workshop(tmp_path_factory.mktemp("kills"), lab_command, teacher)
    made.finish(Scene(stage("1")), made.first)
    return made


def results(scene: Scene, out: Path) -> dict[str, str]:
    files = (path for path in sorted(out.rglob("*")) if path.is_file() and scene.is_result(path))
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def kill(process: "subprocess.Popen[str]", victim: str, draw: random.Random) -> None:
    with contextlib.suppress(ProcessLookupError):
        if victim == "group":
            os.killpg(process.pid, signal.SIGKILL)
        elif victim == "child" and (children := members(process.pid) - {process.pid}):
            os.kill(draw.choice(sorted(children)), signal.SIGKILL)
        else:
            process.kill()


def members(session: int) -> set[int]:
    """The living processes of a session."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, _, of_session = path.read_text().rpartition(")")[2].split()[:4]
            if int(of_session) == session and state != "Z":
                found.add(int(path.parent.name))
    return found


def shares(total: int, parts: int) -> Iterator[int]:
    """Whole numbers that differ by one at most."""
    for part in range(parts):
        yield (total * (part + 1)) // parts - (total * part) // parts


FEW_SCENES = [(name, 1) for name in one_in(3, list(SCENES), of="kills")]


@pytest.mark.parametrize(
    ("name", "kills"), list(zip(SCENES, shares(int(KILLS), len(SCENES)), strict=True)) if KILLS else FEW_SCENES
)
def test_a_command_that_is_killed_ends_like_one_that_is_not(
    name: str, kills: int, workshop: Workshop, record_property: Any
) -> None:
    scene, draw = SCENES[name], random.Random(f"{SEED} {name}")
    expected, seconds = workshop.whole(name)
    assert expected
    number = left = 0
    while left < kills:
        number += 1
        out = workshop.root / "killed" / f"{name.replace(' ', '_')}_{number}"
        out.parent.mkdir(exist_ok=True)
        for _ in range(min(kills - left, draw.randint(1, MOST_KILLS_A_RUN))):
            process = workshop.start(scene, out)
            victim = draw.choice(scene.victims)
            # most of the first seconds are imports
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=seconds * draw.uniform(0.2, 1.0))
            kill(process, victim, draw)
            _, said = process.communicate(timeout=60)
            assert "Traceback" not in TRACKER.sub("", said), said
            deadline = time.monotonic() + 20
            while members(process.pid):
                assert time.monotonic() < deadline, f"processes outlive the command ({victim})"
                time.sleep(0.05)
            left += process.returncode != 0
            if process.returncode == 0 or scene.is_done(out):
                break
        if not scene.is_done(out):
            workshop.finish(scene, out)
        assert results(scene, out) == expected
        assert twice(out, scene.once) == []
        assert leftovers(out.parent) == []
        shutil.rmtree(out)
    record_property("kills", left)


def twice(out: Path, keys: tuple[str, ...]) -> list[list[str]]:
    """What was recorded more than once."""
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_bytes().splitlines()] if keys else []
    known = Counter(tuple(row[key] for key in keys) for row in rows if row.keys() >= set(keys))
    assert known or not keys
    return [list(each) for each, count in known.items() if count > 1]


def leftovers(folder: Path) -> list[str]:
    """Files and folders that only a write in progress needs."""
    hidden = (path for path in folder.rglob(".*") if path.name != ".lock" and path.parent.name != ".hydra")
    return [str(path) for path in hidden if path.name != ".hydra"]
