"""What a user can get wrong about models, images and prompts: one line, exit code 2, nothing written."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from lab.core.models.checkpoint import CONFIG, INDEX, ONE_FILE, write_checkpoint
from lab.core.runs.sums import SUMS

# longer than a quick test may take
pytestmark = pytest.mark.slow

Typed = Callable[..., Any]
HEAD = "language_model.output.weight"


def rewritten(folder: Path, change: Callable[[dict[str, torch.Tensor]], None], *, max_shard_bytes: int = 10**9) -> None:
    """The checkpoint with changed tensors."""
    tensors = load_file(folder / ONE_FILE)
    change(tensors)
    content = json.loads((folder / CONFIG).read_text())
    words = folder.with_name("words")
    shutil.move(folder, words)
    write_checkpoint(folder, tensors, content, carried=[words / "vocabulary.json"], max_shard_bytes=max_shard_bytes)
    (folder / SUMS).unlink()
    shutil.rmtree(words)


def missing_shard(folder: Path) -> None:
    rewritten(folder, lambda tensors: None, max_shard_bytes=9000)
    sorted(folder.glob("model-*.safetensors"))[1].unlink()


def absent_file(folder: Path) -> None:
    rewritten(folder, lambda tensors: None, max_shard_bytes=9000)
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"][HEAD] = "gone.safetensors"
    (folder / INDEX).write_text(json.dumps(index))


def wrong_shape(folder: Path) -> None:
    rewritten(folder, lambda tensors: tensors.update({HEAD: tensors[HEAD][1:].clone()}))


def not_a_number(folder: Path) -> None:
    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        tensors[HEAD][3, 2] = float("nan")

    rewritten(folder, spoil)


def cut_off(folder: Path) -> None:
    content = (folder / ONE_FILE).read_bytes()
    (folder / ONE_FILE).write_bytes(content[:-100])


def cut_off_at_the_start(folder: Path) -> None:
    (folder / ONE_FILE).write_bytes((folder / ONE_FILE).read_bytes()[:5])


def no_weights(folder: Path) -> None:
    (folder / ONE_FILE).unlink()


def no_json(folder: Path) -> None:
    (folder / CONFIG).write_text("{")


def no_words(folder: Path) -> None:
    (folder / "vocabulary.json").unlink()


DAMAGES: dict[Callable[[Path], None], tuple[str, ...]] = {
    missing_shard: ("model-00002-of-", "is missing, though model.safetensors.index.json names it", "copy"),
    absent_file: ("gone.safetensors is missing", "copy the checkpoint again"),
    wrong_shape: (HEAD, "has shape (95, 16) but config.json makes it (96, 16)"),
    not_a_number: (HEAD, "holds NaN or infinity"),
    cut_off: ("model.safetensors is cut off", "copy it again"),
    cut_off_at_the_start: ("model.safetensors is cut off", "copy it again"),
    no_weights: ("model.safetensors is missing", "give the folder of a checkpoint"),
    no_json: ("config.json is not valid JSON", "copy the checkpoint again"),
    no_words: ("none of vocabulary.json, tokenizer.json and tokenizer.model", "copy"),
}


@pytest.fixture
def place(outputs: Path, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where commands are typed: a teacher, a picture, and a file that is none."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(teacher, tmp_path / "model")
    # as a public checkpoint
    (tmp_path / "model" / SUMS).unlink()
    Image.new("L", (28, 28)).save(tmp_path / "a.png")
    (tmp_path / "text.png").write_text("no picture")
    return tmp_path


def check_refused(place: Path, typed: Typed, words: tuple[str, ...], says: tuple[str, ...]) -> None:
    before = {path: path.stat().st_mtime_ns for path in place.rglob("*")}
    done = typed(*words)
    assert done.code == 2, done.err
    assert done.out == ""
    assert done.err.startswith("lab: ")
    assert done.err.count("\n") == 1
    for word in says:
        assert word in done.err
    assert {path: path.stat().st_mtime_ns for path in place.rglob("*")} == before


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_checkpoint(place: Path, typed: Typed, damage: Callable[[Path], None]) -> None:
    damage(place / "model")
    says = DAMAGES[damage]
    distill = ("distill", "teacher.path=model", "teacher.hovle=null")
    check_refused(place, typed, (*distill, "stage=all"), says)
    check_refused(place, typed, ("generate", "model", "--prompt", "How many?"), says)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--image", "text.png"), ("text.png is not an image that can be read", "give a PNG or JPEG file")),
        (("--image", "gone.png"), ("gone.png does not exist", "give the path of an image")),
        (("--prompt", "<image> <image> How many?", "--image", "a.png"), ("2 <image> marks but 1 images", "remove")),
        (("--prompt", "<image> How many?"), ("1 <image> marks but 0 images", "give more images")),
        (
            ("--prompt", "<image> How?", "--image", "a.png", "--image", "a.png"),
            ("2 images but 1 <image> marks", "mark"),
        ),
        (("--image", "a.png", "--image", "a.png"), ("2 images but 0 <image> marks", "write a mark")),
        (("--prompt", "How many? " * 400), ("the prompt has 12", "trained on at most 1024; shorten it")),
        (("--prompt", "How many hats?"), ("'hats'", "use other words")),
        (("--raw", "--prompt", ""), ("the prompt is empty",)),
        (("--raw", "--image", "a.png"), ("image=a.png: a raw prompt is text only",)),
        (("--top-k", "3"), ("top_k=3 with temperature=0", "give a temperature")),
        (("--temperature", "-1"), ("temperature=-1.0", "at most 10000")),
        (("--temperature", "1", "--top-p", "2"), ("top_p=2.0", "at most 1")),
        (("--precision", "half"), ("precision=half", "bfloat16, float32, float64")),
        (("--device", "tpu"), ("device=tpu", "auto, cpu, cuda")),
        (("--stage", "2"), ("model is not a run", "drop them")),
        (("--json", "a.png/out.json"), ("a.png/out.json cannot be written", "choose another place")),
    ],
    ids=lambda words: " ".join(words)[:30] if words[0].startswith("--") else None,
)
def test_a_prompt_that_cannot_be_answered(
    place: Path, typed: Typed, words: tuple[str, ...], says: tuple[str, ...]
) -> None:
    prompt = () if "--prompt" in words else ("--prompt", "How many?")
    check_refused(place, typed, ("generate", "model", *prompt, *words), says)


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("nothing", ("no run nothing", "`lab runs` lists them")),
        ("no/folder", ("no/folder does not exist", "give the folder of a checkpoint or a run")),
        (".", ("config.json is missing or damaged", "neither a run", "nor a checkpoint folder")),
        ("gone.gguf", ("gone.gguf", "give")),
    ],
)
def test_a_model_that_is_not_there(place: Path, typed: Typed, model: str, says: tuple[str, ...]) -> None:
    check_refused(place, typed, ("generate", model, "--prompt", "How many?"), says)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ("student.hybrid.placement=listed", "student.hybrid.layers=[99]"),
            ("hybrid.layers names layer 99 but the model has 2", "from 0 to 1"),
        ),
        (("prompt.max_length=5000",), ("prompt.max_length=5000", "at most 1024", "lower it")),
        (("prompt.system=hats",), ("'hats'", "use other words")),
    ],
    ids=["layer 99", "longer than trained", "unknown word"],
)
def test_a_distillation_that_cannot_be(
    place: Path, typed: Typed, words: tuple[str, ...], says: tuple[str, ...]
) -> None:
    for stage in ("1", "all"):
        distill = ("distill", "teacher.path=model", "teacher.hovle=null", f"stage={stage}")
        check_refused(place, typed, (*distill, *words), says)


def samples(place: Path, **changed: Any) -> None:
    """Forty conversations about pictures, one of them changed."""
    lines = []
    for number in range(40):
        shutil.copy(place / "a.png", place / f"{number}.png")
        record = {"image": f"{number}.png", "question": "<image> How many?"}
        record |= changed if number == 17 or "all" in changed else {}
        turns = [{"value": record["question"]}, {"value": "one"}]
        lines.append(json.dumps({"image": record["image"], "conversations": turns}) + "\n")
    (place / "chats.jsonl").write_text("".join(lines))


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"image": "text.png"}, ("chats.jsonl, line 18", "text.png is not an image")),
        ({"image": "gone.png"}, ("chats.jsonl, line 18", "gone.png does not exist")),
        ({"question": "<image> <image> How many?"}, ("chats.jsonl, line 18", "2 <image> marks but 1 images")),
        ({"image": ["1.png", "2.png"]}, ("chats.jsonl, line 18", "2 images but 1 <image> marks")),
        ({"question": "<image> " + "How " * 1100, "all": True}, ("more than max_length=1024", "shorten it")),
    ],
    ids=["no image", "missing image", "more marks", "fewer marks", "too long"],
)
def test_a_file_of_conversations_that_cannot_be_used(
    place: Path, typed: Typed, changed: dict[str, Any], says: tuple[str, ...]
) -> None:
    samples(place, **changed)
    words = ("data=conversations", "data.conversations.path=chats.jsonl", "data.conversations.image_folder=.")
    more = ("data.conversations.held_out_share=0.3", *(() if "all" in changed else ("data.on_bad_sample=refuse",)))
    distill = ("distill", "teacher.path=model", "teacher.hovle=null", "stage=1")
    check_refused(place, typed, (*distill, *words, *more), says)
