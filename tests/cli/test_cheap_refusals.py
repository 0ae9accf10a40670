"""What is cheap to check is refused before a tokenizer or weights are read."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lab.core.models import folder
from lab.experiments.distill.teacher import SHIPPED_FOLDER
from reference.text_checkpoint import write_text_checkpoint

TEACHER = ("teacher.path=model", "teacher.hovle=null")
TEXT = ("data=text", "data.text.folder=gone")
GENERATE = ("generate", "model", "--prompt", "How many?")


@pytest.fixture
def place(tmp_path: Path, outputs: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model whose weights cannot be read."""
    monkeypatch.chdir(tmp_path)
    # another path than in other tests, whose teacher may be loaded already
    shutil.copytree(SHIPPED_FOLDER, tmp_path / "model")
    monkeypatch.setattr(folder, "load_weights", refused_to_read)
    return tmp_path


def refused_to_read(*args: object, **kwargs: object) -> None:
    pytest.fail("it was read before the refusal")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("probe", "model=model", *TEXT), "gone does not exist; give a text file, or a folder"),
        (("probe", "model=[model,gone/run]", "data=text"), "gone/run does not exist"),
        (("probe", "model=model", "data=text", "num_train=5000", "num_contexts=5"), "num_contexts=5; raise that"),
        (("distill", *TEACHER, "stage=1", *TEXT), "gone does not exist"),
        (
            ("distill", *TEACHER, "data=conversations", "data.conversations.path=gone.jsonl", "stage=1"),
            "gone.jsonl cannot be read",
        ),
        (("distill", *TEACHER, "stage=2"), "no finished run of it with this teacher"),
        (("distill", *TEACHER, "stage=3", "from_run=gone"), "gone"),
        (("eval", "model", "gone/run", "picture_questions:4"), "gone/run does not exist"),
        (("eval", "model", "text:gone"), "gone does not exist"),
        ((*GENERATE, "--image", "gone.png"), "gone.png does not exist"),
        ((*GENERATE, "--image", "gone.png", "--raw"), "a raw prompt is text only"),
        (("data", "check", "gone.jsonl", "--teacher", "model"), "gone.jsonl cannot be read"),
    ],
    ids=lambda words: " ".join(words)[:40] if isinstance(words, tuple) else None,
)
def test_before_a_tokenizer(
    place: Path, typed: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], says: str
) -> None:
    monkeypatch.setattr(folder, "load_tokenizer", refused_to_read)
    refused = typed(*words)
    assert (refused.code, says in refused.err) == (2, True), refused.err


def test_before_weights(place: Path, typed: Callable[..., Any]) -> None:
    """A model's tokenizer and architecture know more: words, and whether there are pictures."""
    refused = typed("distill", *TEACHER, "stage=1", "prompt.system=hats")
    assert (refused.code, "'hats'" in refused.err) == (2, True), refused.err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--prompt", "a", "--image", "a.png"), "image=a.png: this model reads text only"),
        (("--prompt", "a", "--max-tiles", "3"), "max_tiles=3: this model reads text only"),
        (("--prompt", "a", "--system", "b"), "no chat template to write it with"),
        (("--requests", "in.jsonl", "out.jsonl"), "in.jsonl, line 2: image=a.png: this model reads text only"),
    ],
    ids=lambda words: words[-2] if isinstance(words, tuple) else None,
)
def test_what_a_model_of_text_does_not_read(
    place: Path, typed: Callable[..., Any], words: tuple[str, ...], says: str
) -> None:
    write_text_checkpoint(place / "text")
    Image.new("L", (28, 28)).save(place / "a.png")
    asked = [{"prompt": "a"}, {"prompt": "a", "images": ["a.png"]}]
    (place / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in asked))
    refused = typed("generate", "text", *words)
    assert (refused.code, says in refused.err) == (2, True), refused.err
    assert not (place / "out.jsonl").exists()
