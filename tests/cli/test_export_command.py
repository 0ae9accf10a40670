"""`lab export`: the folder is the student, to the last bit, and is taken wherever a model is."""

import json
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file

from lab.core.hydra_schema import to_typed
from lab.core.models.folder import Kind, ModelFolder
from lab.core.runs.record import Run
from lab.core.runs.sums import SUMS
from lab.core.train.digests import write_meta
from lab.core.train.state import checkpoint_path, checkpoints
from lab.experiments.distill.config import DistillConfig, register
from lab.experiments.distill.load import student_of
from lab.experiments.distill.stage_graph import nodes, students
from lab.experiments.distill.student import own_tensors
from lab.experiments.distill.teacher import digest, load_teacher

# longer than a quick test may take
pytestmark = pytest.mark.slow

Typed = Callable[..., Any]
GOLDEN = Path(__file__).parents[1] / "golden"
CPU = torch.device("cpu")
# the public code's folders of layers, by ours
STACKS = {"embedding.layers": "embedding_model.encoder", "llm.layers": "language_model.model.layers"}


@pytest.fixture
def root(distilled: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The output folder with finished runs."""
    monkeypatch.setenv("LAB_OUTPUTS", str(distilled.root))
    return Path(distilled.root)


def weights_of(run: Path, stage: int) -> dict[str, torch.Tensor]:
    """What the end of a stage left of a run with one student."""
    (node,) = run.glob(f"checkpoints/stage_{stage}-*")
    return load_file(checkpoints(node)[-1] / "model.safetensors")


def check_holds(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    state = ModelFolder(folder).load(device=CPU, dtype=torch.float32).state_dict()
    assert tensors
    assert [name for name, tensor in tensors.items() if not state[name].equal(tensor)] == []


def check_refused(done: Any, *words: str) -> None:
    assert done.code == 2, done.err
    assert done.err.startswith("lab: ")
    assert done.err.count("\n") == 1
    for word in words:
        assert word in done.err


def record_golden(golden: Path, folder: Path) -> None:
    """A finished run of stage 3 whose student is the public code's, every new tensor of it moved by noise."""
    kept = json.loads((golden / "meta.json").read_text())["hybrid_softmax_layers"]
    register()
    overrides = [f"teacher.path={golden}", "teacher.hovle=null", "stage=3", f"student.hybrid.layers={kept}"]
    with initialize_config_module("lab.conf", version_base="1.3"):
        composed = compose("distill", overrides=[*overrides, "student.hybrid.placement=listed"])
    settings = to_typed(composed, DistillConfig)
    (node,) = nodes(students(settings))
    teacher = load_teacher(settings.teacher, device=CPU, seed=0)
    student = student_of(node, None, teacher=teacher, teacher_digest=digest(teacher), config=settings)
    public = load_file(golden / "student_moved.safetensors")

    def moved(name: str) -> torch.Tensor:
        layer, _, part = name.partition(".mixer.")
        stack, _, index = layer.rpartition(".")
        prefix = f"{STACKS[stack]}.{index}.attention."
        if part == "vkq_proj.weight":
            return torch.cat([public[f"{prefix}{letter}_proj.weight"] for letter in "vkq"])
        return public[prefix + {"A_log": "A_log_bias"}.get(part, part)]

    checkpoint = checkpoint_path(folder / "checkpoints" / node.name, 1)
    checkpoint.mkdir(parents=True)
    save_file({name: moved(name) for name in own_tensors(student)}, checkpoint / "model.safetensors")
    meta = {"step": 1, "stage": 3, "replicate": 0, "teacher": digest(teacher)}
    write_meta(checkpoint, meta)
    recorded = OmegaConf.to_container(composed, resolve=True, enum_to_str=True)
    assert isinstance(recorded, dict)
    with Run(folder, {str(key): value for key, value in recorded.items()}, overrides, {}, b"") as run:
        run.log([{"kind": "done", "unit": node.key}])


@pytest.mark.parametrize("name", ["hovle_pre", "hovle_post"])
def test_the_public_code_s_student_is_exported_as_it_released_it(
    typed: Typed, outputs: Path, tmp_path: Path, name: str
) -> None:
    record_golden(GOLDEN / name, outputs / "distill" / "runs" / "golden")
    done = typed("export", "golden", str(tmp_path / "student"))
    assert done.code == 0, done.err
    written = load_file(tmp_path / "student" / "model.safetensors")
    released = load_file(GOLDEN / name / "student_hybrid_released.safetensors")
    assert written.keys() == released.keys()
    assert [key for key, tensor in released.items() if not written[key].equal(tensor)] == []


def test_a_folder_holds_the_last_stage_the_tokenizer_and_how_prompts_are_written(
    typed: Typed, root: Path, teacher: Path, tmp_path: Path
) -> None:
    done = typed("export", "hybrid", str(tmp_path / "student"))
    assert done.code == 0, done.err
    assert done.out == f"{tmp_path}/student: the student of hybrid after stage 3, 1 mha and 1 mamba2 layers\n"
    assert sorted(os.listdir(tmp_path / "student")) == [SUMS, "config.json", "model.safetensors", "vocabulary.json"]
    assert (tmp_path / "student" / "vocabulary.json").read_bytes() == (teacher / "vocabulary.json").read_bytes()
    content = json.loads((tmp_path / "student" / "config.json").read_text())
    assert content["prompt"] == {"system": "", "max_tiles": 12}
    assert content["embedding_config"]["layers_block_type"] + content["llm_config"]["layers_block_type"] == [
        "mha",
        "mamba2",
    ]
    check_holds(tmp_path / "student", weights_of(root / "distill" / "runs" / "hybrid", 3))
    assert list(tmp_path.iterdir()) == [tmp_path / "student"], "nothing is left beside the folder"


@pytest.mark.parametrize("stage", [1, 2])
def test_an_earlier_stage_may_be_asked_for(typed: Typed, root: Path, tmp_path: Path, stage: int) -> None:
    assert typed("export", "hybrid", str(tmp_path / "out"), "--stage", str(stage)).code == 0
    check_holds(tmp_path / "out", weights_of(root / "distill" / "runs" / "hybrid", stage))


def test_a_stage_that_went_on_from_another_run_is_exported(typed: Typed, root: Path, tmp_path: Path) -> None:
    assert typed("export", "second", str(tmp_path / "out")).code == 0
    check_holds(tmp_path / "out", weights_of(root / "distill" / "runs" / "second", 2))


def test_a_folder_is_read_by_whoever_may(typed: Typed, root: Path, tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        done = typed("export", "first", str(tmp_path / "student"))
    finally:
        os.umask(before)
    assert done.code == 0, done.err
    assert stat.S_IMODE((tmp_path / "student").stat().st_mode) == 0o750
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "student").rglob("*")} == {0o640}


def test_one_of_several_students_is_chosen_by_label_and_replicate(typed: Typed, root: Path, tmp_path: Path) -> None:
    check_refused(typed("export", "several", str(tmp_path / "out")), "2 students", "--variant: a, b")
    check_refused(typed("export", "several", str(tmp_path / "out"), "--variant", "c"), "no variant c", "a, b")
    asked = [(label, replicate) for label in "ab" for replicate in "01"]
    for label, replicate in asked:
        words = ("--variant", label, "--replicate", replicate)
        assert typed("export", "several", str(tmp_path / f"{label}{replicate}"), *words).code == 0
    files = [load_file(tmp_path / f"{label}{replicate}" / "model.safetensors") for label, replicate in asked]
    check_refused(typed("export", "several@:a:1", str(tmp_path / "named"), "--replicate", "1"), "leave one out")
    assert typed("export", "several@:a:1", str(tmp_path / "named")).code == 0
    named = load_file(tmp_path / "named" / "model.safetensors")
    assert all(named[name].equal(tensor) for name, tensor in files[1].items())
    name = "language_model.model.layers.0.attention.wvkqgdt.weight"
    assert len({tuple(file[name].flatten().tolist()) for file in files}) == 4


def test_the_next_stage_goes_on_from_a_folder_as_from_the_run(
    typed: Typed, distilled: Any, root: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "student"
    assert typed("export", "first", str(folder)).code == 0
    again = type(distilled)(tmp_path / "outputs", distilled.teacher).run("second", "stage=2", f"from_run={folder}")
    expected = weights_of(root / "distill" / "runs" / "second", 2)
    found = weights_of(again, 2)
    assert found.keys() == expected.keys()
    assert all(found[key].equal(tensor) for key, tensor in expected.items())


def test_a_hybrid_goes_on_as_the_same_hybrid_and_as_no_other(
    typed: Typed, distilled: Any, root: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "student"
    assert typed("export", "hybrid", str(folder)).code == 0
    words = ("distill", f"teacher.path={distilled.teacher}", "teacher.hovle=null", "stage=3", f"from_run={folder}")
    check_refused(
        typed(*words), str(folder), "or has attention or another mixer in a layer that stage=3 needs as mamba2"
    )
    runs = type(distilled)(tmp_path / "outputs", distilled.teacher)
    runs.run("third", "stage=3", f"from_run={folder}", "student=hybrid", "student.hybrid.number=2")
    assert (runs.root / "distill" / "runs" / "third" / "table.parquet").exists()


def test_a_folder_is_a_student_and_no_teacher(typed: Typed, root: Path, teacher: Path, tmp_path: Path) -> None:
    folder = tmp_path / "student"
    assert typed("export", "first", str(folder)).code == 0
    assert ModelFolder(folder).kind is Kind.student
    words = ("distill", "teacher.hovle=null")
    check_refused(typed(*words, f"teacher.path={folder}", "stage=1"), f"teacher.path={folder} is a student", "from_run")
    check_refused(typed(*words, f"teacher.path={teacher}", "stage=2", f"from_run={teacher}"), f"{teacher} is a teacher")
    check_refused(typed("export", str(folder), str(tmp_path / "out")), f"{folder} is not a run of `lab distill`")


def test_a_student_of_another_teacher_does_not_go_on(typed: Typed, root: Path, teacher: Path, tmp_path: Path) -> None:
    folder, other = tmp_path / "student", tmp_path / "other"
    assert typed("export", "first", str(folder)).code == 0
    shutil.copytree(teacher, other)
    (other / SUMS).unlink()
    tensors = load_file(other / "model.safetensors")
    tensors["language_model.model.layers.0.attention.wo.weight"] += 1
    save_file(tensors, other / "model.safetensors")
    words = ("distill", f"teacher.path={other}", "teacher.hovle=null", "stage=2", f"from_run={folder}")
    check_refused(typed(*words), "o_proj.weight is not the teacher's")


def test_a_variant_of_the_layer_is_exported_as_such(
    typed: Typed, distilled: Any, outputs: Path, tmp_path: Path
) -> None:
    type(distilled)(outputs, distilled.teacher).run("wide", "stage=1", "student.mixer.conv_kernel=4")
    done = typed("export", "wide", str(tmp_path / "out"))
    assert done.code == 0, done.err
    content = json.loads((tmp_path / "out" / "config.json").read_text())
    # not the model of mmMamba's release: its classes would drop two taps
    assert (content["model_type"], content["mixer_options"]) == ("internvl_chat_mamba2", {"conv_kernel": 4})
    question = ("--prompt", "How many?", "--max-new-tokens", "4", "--threads", "1")
    texts = [typed("generate", name, *question) for name in ("wide", str(tmp_path / "out"))]
    assert [done.code for done in texts] == [0, 0], texts
    assert texts[0].out == texts[1].out


def test_a_run_without_a_finished_student_is_refused(
    typed: Typed, distilled: Any, outputs: Path, tmp_path: Path
) -> None:
    folder = outputs / "distill" / "runs" / "cut"
    shutil.copytree(distilled.root / "distill" / "runs" / "hybrid", folder)
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    ends = [number for number, line in enumerate(lines) if json.loads(line)["kind"] == "done"]
    # killed in the first stage, in the middle of a line: baselines and the seed are done
    (folder / "metrics.jsonl").write_text("".join(lines[: ends[1] + 1]) + lines[ends[1] + 1][:9])
    check_refused(typed("export", "cut", str(tmp_path / "out")), "no finished student; it has finished stage 0")
    assert typed("export", "cut", str(tmp_path / "seed"), "--stage", "0").code == 0
    # killed in the last stage: the one before is the newest
    (folder / "metrics.jsonl").write_text("".join(lines[: ends[-2] + 1]))
    done = typed("export", "cut", str(tmp_path / "out"))
    assert "after stage 2" in done.out, done.err
    check_refused(typed("export", "cut", str(tmp_path / "third"), "--stage", "3"), "no finished student of stage 3")
    (folder / "metrics.jsonl").unlink()
    check_refused(typed("export", "cut", str(tmp_path / "none")), "no finished student", "resume=cut")
    assert not (tmp_path / "none").exists()


@pytest.mark.slow
def test_a_teacher_that_changed_is_refused(lab: Typed, distilled: Any, outputs: Path, tmp_path: Path) -> None:
    other = tmp_path / "teacher"
    shutil.copytree(distilled.teacher, other)
    type(distilled)(outputs, other).run("first", "stage=1")
    tensors = load_file(other / "model.safetensors")
    tensors["language_model.output.weight"] += 1
    save_file(tensors, other / "model.safetensors")
    (other / SUMS).unlink()
    check_refused(lab("export", "first", "out"), f"teacher.path={other}", "other weights")
    shutil.rmtree(other)
    check_refused(lab("export", "first", "out"), str(other), "cannot be read")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("run", "dest", "says"),
    [
        ("nothing", "out", ("no run nothing", "`lab runs` lists them")),
        ("hybrid", "taken", ("taken exists", "give a name that does not")),
        ("hybrid", "file/out", ("file/out cannot be written", "choose another place")),
        ("hybrid", "/proc/nowhere/out", ("/proc/nowhere/out cannot be written",)),
        ("hybrid", "a.gguf", ("a.gguf ends as a GGUF file does", "add --format gguf")),
        ("hybrid", "shipped", ("shipped is how commands call the teacher", "give another name")),
        ("hybrid", "a\udcff", ("a\\udcff is not UTF-8", "give another name")),
        ("empty", "out", ("empty/config.json is missing or damaged", "neither a run")),
    ],
)
def test_what_cannot_be_is_one_line_and_leaves_nothing(
    typed: Typed,
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    run: str,
    dest: str,
    says: tuple[str, ...],
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("taken", "empty"):
        Path(folder).mkdir()
    Path("file").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    check_refused(typed("export", run, dest), *says)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_student_whose_teacher_was_rounded_does_not_go_on(
    typed: Typed, distilled: Any, root: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "student"
    assert typed("export", "first", str(folder), "--precision", "bfloat16").code == 0
    words = ("distill", f"teacher.path={distilled.teacher}", "teacher.hovle=null", "stage=2", f"from_run={folder}")
    check_refused(typed(*words), f"{folder} holds weights in bfloat16", "with --precision float32")
