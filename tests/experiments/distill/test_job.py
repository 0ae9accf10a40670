"""A whole run: what it writes, how stages follow one another, and that it goes on wherever it was cut off."""

import json
import os
import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from drawn import one_in
from lab.core.errors import CheckpointError, LabError, RunError
from lab.core.hydra_schema import to_typed
from lab.core.models.folder import ModelFolder
from lab.core.products.implementations import IMPLEMENTATIONS
from lab.core.runs.record import Run
from lab.core.runs.sums import SUMS
from lab.core.train.digests import read_meta, write_meta
from lab.core.train.state import checkpoints
from lab.experiments.distill.config import DistillConfig
from lab.experiments.distill.data_sources import DataSources
from lab.experiments.distill.job import check
from lab.experiments.distill.teacher import digest, load_teacher

Runner = Any


def test_one_command_trains_three_stages_and_measures_each(whole: Runner) -> None:
    folder = whole.folder("all")
    written = {path.name for path in folder.iterdir()} - {".lock", "source.patch"}
    files = {"config.json", "metrics.jsonl", "overrides.json", "provenance.json", "status.json", "summary.json"}
    assert written == files | {"checkpoints", "figures", "stages.json", "table.parquet", SUMS}
    assert {path.stem for path in (folder / "figures").iterdir()} == {"layer_error", "loss", "accuracy", "trade_off"}
    table = whole.table("all")
    results = [row for row in table if row["kind"] == "result"]
    assert [row["stage"] for row in results if row["model"] == "student"] == [0, 1, 2, 3]
    others = ["teacher", "teacher, images ablated", "teacher, window 32 + 4", "chance"]
    assert [row["model"] for row in results if row["model"] != "student"] == others
    trained = [(row["stage"], row["step"]) for row in table if row["kind"] == "train"]
    assert trained == [(stage, step) for stage in (1, 2, 3) for step in range(1, 5)]
    assert "seconds" not in table[0]
    assert json.loads((folder / "status.json").read_text())["status"] == "finished"


@pytest.mark.slow
def test_stages_on_their_own_find_the_one_before_and_end_as_all_in_one(runner: Runner, whole: Runner) -> None:
    for stage in (1, 2, 3):
        runner.run(f"run_{stage}", f"stage={stage}")
        ours, theirs = runner.weights(f"run_{stage}", stage), whole.weights("all", stage)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_the_teacher_is_the_same_to_the_last_bit_after_everything(whole: Runner, teacher_folder: Path) -> None:
    settings = to_typed(whole.composed("stage=all"), DistillConfig)
    used = load_teacher(settings.teacher, device=torch.device("cpu"), seed=0)
    fresh = ModelFolder(teacher_folder).load(device=torch.device("cpu"), dtype=settings.teacher.precision.dtype)
    assert digest(used) == digest(fresh)


class Cut(BaseException):
    """The end of a process, as far as what it leaves behind is concerned."""


CUTS = [*((count, "inline") for count in (0, 1, 6, 9, 20, 24)), *((count, "process") for count in (1, 9, 13))]


@pytest.mark.parametrize(
    ("after", "loader"),
    [
        (13, "inline"),
        *(pytest.param(*cut, marks=pytest.mark.slow) for cut in one_in(3, CUTS, of="cuts")),
    ],
)
def test_a_run_that_was_cut_off_ends_like_one_that_was_not(
    runner: Runner, whole: Runner, monkeypatch: pytest.MonkeyPatch, after: int, loader: str
) -> None:
    count = 0
    log = Run.log

    def cutting(self: Run, rows: Any) -> None:
        nonlocal count
        if count == after:
            raise Cut
        count += 1
        log(self, rows)

    state = torch.get_rng_state()
    with monkeypatch.context() as patched:
        patched.setattr(Run, "log", cutting)
        with pytest.raises(Cut):
            runner.run("cut", "stage=all", f"loader={loader}")
    runner.run("cut", "stage=all", f"loader={loader}")
    # nothing draws from it, so checkpoints need not keep it
    assert torch.equal(torch.get_rng_state(), state)
    check_equal(runner.folder("cut"), whole.folder("all"))


def test_other_products_or_data_than_before_are_refused_unless_told_otherwise(
    runner: Runner, whole: Runner, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = runner.folder("again")
    shutil.copytree(whole.folder("all"), folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"figures": []}))
    (folder / SUMS).unlink()
    provenance = json.loads((folder / "provenance.json").read_text())
    ((dtype, chosen),) = provenance["products"].items()
    assert chosen == "torch everywhere"
    runner.run("again", "stage=all")
    (folder / "provenance.json").write_text(json.dumps(provenance | {"products": {dtype: "onednn"}}))
    (folder / SUMS).unlink()
    says = f"products of {dtype} is torch everywhere, was onednn"
    with pytest.raises(RunError, match=says):
        runner.run("again", "stage=all")
    capsys.readouterr()
    runner.run("again", "stage=all", "resume_on=different")
    assert says in capsys.readouterr().err
    with pytest.raises(RunError, match="products=auto, not torch"):
        runner.run("again", "stage=all", "products=torch")
    content = {"chats.jsonl": {"path": "/chats.jsonl", "bytes": 3, "digest": "ab"}}
    monkeypatch.setattr(DataSources, "contents", lambda self: content)
    with pytest.raises(RunError, match=r"chats\.jsonl is 3 bytes .*, was not used; .*with the data that it had"):
        runner.run("again", "stage=all")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["onednn", "native", "packed"])
def test_stages_are_the_same_with_every_implementation_of_products(runner: Runner, whole: Runner, name: str) -> None:
    if IMPLEMENTATIONS[name].why_not(torch.device("cpu"), torch.float32) is not None:
        pytest.skip(f"{name} cannot run here")
    runner.run("other", "stage=all", f"products={name}")
    provenance = json.loads((runner.folder("other") / "provenance.json").read_text())
    assert name in provenance["products"]["float32"]
    for ours, theirs in zip(runner.table("other"), whole.table("all"), strict=True):
        if theirs["kind"] in ("train", "validation"):
            assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)


def check_equal(ours: Path, theirs: Path) -> None:
    """Weights and table to the last bit."""
    assert (ours / "table.parquet").read_bytes() == (theirs / "table.parquet").read_bytes()
    nodes = sorted(path.name for path in (theirs / "checkpoints").iterdir())
    assert sorted(path.name for path in (ours / "checkpoints").iterdir()) == nodes
    for node in nodes:
        last = [checkpoints(folder / "checkpoints" / node)[-1] for folder in (ours, theirs)]
        assert last[0].name == last[1].name
        for file in ("model.safetensors", "meta.json"):
            assert (last[0] / file).read_bytes() == (last[1] / file).read_bytes()


@pytest.mark.slow
def test_variants_share_stages_and_stand_in_one_table(runner: Runner) -> None:
    variants = "+variants={all:{},late:{stages:[3]},hybrid:{student:{hybrid:{placement:head_stacked,number:1}}}}"
    folder = runner.run("variants", "stage=all", variants)
    names = sorted(path.name.split("-")[0] for path in (folder / "checkpoints").iterdir())
    assert names == ["stage_1", "stage_2", "stage_3", "stage_3", "stage_3"]
    last = [row for row in runner.table("variants") if row["kind"] == "result" and row["is_last"]]
    assert [(row["student"], row["num_softmax"]) for row in last] == [("all", 0), ("late", 0), ("hybrid", 1)]
    summary = json.loads((folder / "summary.json").read_text())
    assert [row[1] for row in summary["rows"] if row[0] == "students"] == ["all", "late", "hybrid"]


@pytest.mark.slow
def test_a_new_teacher_is_trained_measured_and_can_be_used(runner: Runner) -> None:
    folder = runner.run(
        "new", "stage=teacher", "teacher.path=null", "teacher.precision=float32", *hovle_of(runner), "figures=[loss]"
    )
    assert (folder / "figures" / "loss.png").exists()
    assert {path.name for path in (folder / "teacher").iterdir()} == {
        "config.json",
        "model.safetensors",
        "vocabulary.json",
        SUMS,
    }
    losses = [row["loss"] for row in runner.table("new") if row["kind"] == "validation"]
    assert losses[-1] < losses[0]
    runner.run("student", "stage=1", f"teacher.path={folder / 'teacher'}", "teacher.hovle=null")


def hovle_of(runner: Runner) -> list[str]:
    """The overrides that make the shipped architecture as small as the other teacher."""
    sizes = {"num_layers": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "num_kv_heads": 1}
    keys = [f"teacher.hovle.{part}.{key}={value}" for part in ("embedding", "llm") for key, value in sizes.items()]
    runner.arguments[:] = [word for word in runner.arguments if word != "teacher.hovle=null"]
    return [*keys, *(f"teacher.hovle.{part}.head_dim=8" for part in ("embedding", "llm"))]


def test_a_stage_without_one_before_it_is_refused(runner: Runner) -> None:
    with pytest.raises(RunError, match=r"no finished run of it .*run `lab distill stage=1` first"):
        check(runner.composed("stage=2"))
    assert not runner.root.exists()


@pytest.mark.slow
def test_only_a_run_of_the_same_teacher_and_student_is_gone_on_from(runner: Runner) -> None:
    folder = runner.run("one", "stage=1", "student.initialisation=inherit")
    with pytest.raises(RunError, match="no finished run"):
        check(runner.composed("stage=2"))
    with pytest.raises(RunError, match=r"from_run=one: its student\.initialisation differs"):
        check(runner.composed("stage=2", "from_run=one"))
    check(runner.composed("stage=2", "from_run=one", "student.initialisation=inherit"))
    check(runner.composed("stage=3", "from_run=one", "student.initialisation=inherit"))
    status = json.loads((folder / "status.json").read_text())
    (folder / "status.json").write_text(json.dumps(status | {"status": "interrupted"}))
    with pytest.raises(RunError, match=r"its config\.json or status\.json is missing or damaged"):
        check(runner.composed("stage=2", "from_run=one", "student.initialisation=inherit"))
    (folder / SUMS).unlink()
    with pytest.raises(RunError, match="it is interrupted; finish it with resume=one"):
        check(runner.composed("stage=2", "from_run=one", "student.initialisation=inherit"))


@pytest.mark.slow
def test_a_run_trained_on_other_weights_under_the_same_path_is_refused(runner: Runner) -> None:
    runner.run("one", "stage=1")
    (meta,) = runner.folder("one").glob("checkpoints/stage_1-*/step_00000004/meta.json")
    recorded = read_meta(meta.parent)
    meta.unlink()
    write_meta(meta.parent, {**{key: recorded[key] for key in recorded if key != "files"}, "teacher": "another"})
    with pytest.raises(CheckpointError, match="was trained on a teacher with other weights"):
        runner.run("two", "stage=2")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["stage=all", "teacher.precision=bfloat16", "stage_1.autocast=true"],
            r"stage_2\.autocast=false beside teacher\.precision=bfloat16: .*give stage_2\.autocast=true",
        ),
        (["stage=5"], r"stage=5: choose from teacher, 1, 2, 3, all"),
        (["stage=all", "stages=[2,1]"], r"stages=.*in ascending order"),
        (["stage=1", "from_run=x"], r"from_run=x: only stage=2 and stage=3"),
        (["stage=3", "from_run=nothing"], r"there is no run nothing"),
        (["stage=all", "stage_2.steps=0"], r"steps=0 must be 1 or more"),
        (
            ["stage=all", "student.hybrid.placement=listed", "student.hybrid.layers=[99]"],
            r"names layer 99 but .* has 4",
        ),
        (["stage=all", "figures=[nice]"], r"figures=nice: choose from"),
        (["stage=all", "prompt.max_length=5000"], r"prompt\.max_length=5000: .*at most 1024 tokens; lower it"),
        (["stage=all", "teacher.path=/nowhere"], r"/nowhere/config\.json cannot be read"),
        (["stage=all", "student.mixer.kernels.ssd=quick"], r"ssd backend='quick' does not exist"),
        (["stage=teacher"], r"stage=teacher trains a vision-language model"),
        (
            ["stage=all", "data={picture_questions: null, named_digits: {num_pictures: 6}}"],
            r"data=named_digits shows 8 x 8 pixels .*choose teacher=named_digits",
        ),
        (["stage=all", "data.picture_questions.digits=/nowhere"], r"/nowhere has neither"),
        (["stage=all", "device=cuda"], r"device=cuda: no GPU is available"),
        (["stage=all", "products=mkl"], r"products=mkl: choose from auto, torch, packed, onednn, native"),
        (
            ["stage=all", "teacher.precision=float64", "products=onednn"],
            r"products=onednn cannot run on cpu: .*float64; use products=auto",
        ),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_written(
    runner: Runner, overrides: list[str], message: str
) -> None:
    with pytest.raises(LabError, match=message):
        check(runner.composed(*overrides))
    assert not runner.root.exists()


def test_a_damaged_teacher_is_refused_before_anything_is_written(runner: Runner, teacher_folder: Path) -> None:
    copy = runner.root.parent / "damaged"
    shutil.copytree(teacher_folder, copy)
    file = copy / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged or was changed"):
        check(runner.composed("stage=all", f"teacher.path={copy}"))
    assert not runner.root.exists()


LONG = tuple(f"stage_{stage}.{key}" for stage in (1, 2, 3) for key in ("steps=40", "checkpoint_every=3"))


@pytest.mark.slow
def test_ten_kills_at_random_moments_leave_no_trace(runner: Runner) -> None:
    whole, killed = runner.run("whole", "stage=all", *LONG), runner.folder("killed")
    draw = random.Random(0)
    # moments in every stage, each at some step and up to two steps behind it; the last one ends too soon to be hit
    places: dict[int, list[int]] = {1: [], 2: [], 3: []}
    for place, row in enumerate(rows_of(whole)):
        if row["kind"] == "train" and row["step"] <= 30:
            places[row["stage"]].append(place)
    moments = [place for stage in (1, 2, 3) for place in sorted(draw.sample(places[stage], 4 if stage == 1 else 3))]
    for number, place in enumerate(moments):
        # what is made ahead is lost with the process, and a run may go on with another loader
        loader = ("process", "inline")[number % 2]
        child = os.fork()
        if child == 0:
            silence = os.open(os.devnull, os.O_WRONLY)
            os.dup2(silence, 1)
            os.dup2(silence, 2)
            try:
                runner.run("killed", "stage=all", f"loader={loader}", *LONG)
            finally:
                os._exit(0)
        wait_for_rows(killed, place)
        time.sleep(draw.uniform(0.0, 0.04))
        os.kill(child, signal.SIGKILL)
        assert os.waitpid(child, 0)[1] == signal.SIGKILL, "the run must not end before it is killed"
    runner.run("killed", "stage=all", *LONG)
    check_equal(killed, whole)


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def wait_for_rows(folder: Path, count: int) -> None:
    """Until a run has recorded more than so many rows."""
    metrics = folder / "metrics.jsonl"
    deadline = time.monotonic() + 100
    while not metrics.exists() or metrics.read_bytes().count(b"\n") <= count:
        assert time.monotonic() < deadline, "the run does not get on"
        time.sleep(0.005)
