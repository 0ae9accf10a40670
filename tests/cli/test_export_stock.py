"""`lab export --format transformers`: a whole folder that transformers runs, and that lab reads again."""

import json
import os
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from lab.core.data.chat_template import encode_conversation
from lab.core.data.prompt_format import IMAGE_CONTEXT
from lab.core.data.tokenizers import load_tokenizer
from lab.core.models.folder import ModelFolder
from lab.core.runs.sums import SUMS
from lab.core.stock import layout
from lab.experiments.distill.data import PromptConfig, prompt_format
from lab.experiments.distill.opened_model import OpenedModel

transformers = pytest.importorskip("transformers")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
Typed = Callable[..., Any]
SERVING = ("stage=all", "student=serving", "student.hybrid.number=2")
QUESTION = "How many pictures show a bag?"
FILES = [
    *("README.md", SUMS, "chat_template.jinja", "config.json", "generation_config.json", "model.safetensors"),
    *("preprocessor_config.json", "tokenizer.json", "tokenizer_config.json", "vocabulary.json"),
]


@pytest.fixture(scope="session")
def served(distilled: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The output folder with a run of `student=serving`, `served`."""
    runs = type(distilled)(tmp_path_factory.mktemp("served") / "outputs", distilled.teacher)
    runs.run("served", *SERVING)
    return runs


@pytest.fixture
def root(served: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LAB_OUTPUTS", str(served.root))
    return Path(served.root)


def export(typed: Typed, run: str, folder: Path, *words: str) -> Any:
    return typed("export", run, str(folder), "--format", "transformers", *words)


def test_a_folder_is_whole_and_read_by_whoever_may(typed: Typed, root: Path, tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        done = export(typed, "served", tmp_path / "student")
    finally:
        os.umask(before)
    assert done.code == 0, done.err
    assert "as llava around granitemoehybrid, because its Mamba-2 layers gate first" in done.out
    assert "greedy tokens equal" in done.out
    assert done.out.count("\n") == 1
    assert sorted(os.listdir(tmp_path / "student")) == sorted(FILES)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "student").iterdir()}
    assert modes == dict.fromkeys(FILES, 0o640)
    assert stat.S_IMODE((tmp_path / "student").stat().st_mode) == 0o750
    assert list(tmp_path.iterdir()) == [tmp_path / "student"]
    card = (tmp_path / "student" / "README.md").read_text()
    for words in ("right answers, teacher", "divergence from the teacher", "license: not stated", "| 3 | 2 |"):
        assert words in card


def test_transformers_reads_text_and_pictures_as_lab_does(typed: Typed, root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "student"
    assert export(typed, "served", folder).code == 0
    ours = ModelFolder(folder)
    tokenizer, written = load_tokenizer(folder), prompt_format(PromptConfig(), ours.architecture)
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    chat = [{"role": "user", "content": QUESTION}]
    ids = theirs.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
    expected = encode_conversation([QUESTION], [], tokenizer=tokenizer, prompt_format=written)
    assert list(ids) == expected.llm_ids.tolist()
    assert theirs.eos_token_id in ours.stop_ids(tokenizer)
    model = transformers.AutoModelForImageTextToText.from_pretrained(folder)
    assert model.dtype is torch.float32
    # rows of the table without text, which this teacher was not trained to leave out
    without_text = list(range(len(tokenizer), model.config.text_config.vocab_size))
    greedy = {"max_new_tokens": 8, "do_sample": False, "suppress_tokens": without_text}
    answer = model.generate(input_ids=torch.tensor([ids]), **greedy)[0, len(ids) :]
    said = typed("generate", str(folder), "--prompt", QUESTION, "--max-new-tokens", "8", "--threads", "1")
    image = Image.effect_noise((90, 40), 90).convert("RGB")
    pixels = transformers.AutoImageProcessor.from_pretrained(folder)(image, return_tensors="pt")["pixel_values"]
    read = OpenedModel(
        ours.load(device=torch.device("cpu"), dtype=torch.float32), tokenizer, PromptConfig(), frozenset()
    )
    inputs = read.read(QUESTION, [image], is_raw=False)
    assert inputs.pixel_values is not None
    assert inputs.pixel_values.equal(pixels)
    text = theirs.apply_chat_template(
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": QUESTION}]}],
        add_generation_prompt=True,
        tokenize=False,
    )
    each = written.tokens_per_tile * len(pixels)
    spelt = theirs(text.replace(IMAGE_CONTEXT, IMAGE_CONTEXT * each), add_special_tokens=False, return_tensors="pt")
    assert spelt["input_ids"].equal(inputs.tokens)
    with torch.no_grad():
        found = model(input_ids=inputs.tokens, pixel_values=pixels).logits
        expected_logits = read.model(inputs)
    assert float((found - expected_logits).abs().max()) <= 1e-5 * float(expected_logits.abs().max())
    assert said.out.rstrip("\n") == theirs.decode([i for i in answer.tolist() if i != theirs.eos_token_id])


def test_lab_reads_the_folder_as_the_run(typed: Typed, served: Any, root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "student"
    assert export(typed, "served", folder).code == 0
    words = ("--prompt", QUESTION, "--max-new-tokens", "4", "--threads", "1")
    told = [typed("generate", name, *words) for name in ("served", str(folder))]
    assert [done.code for done in told] == [0, 0], told
    assert told[0].out == told[1].out
    again = type(served)(tmp_path / "outputs", served.teacher)
    again.run("third", "stage=3", f"from_run={folder}", *SERVING[1:])
    (trained,) = (again.root / "distill" / "runs" / "third").glob("checkpoints/stage_3-*")
    assert list(trained.iterdir())


def test_a_precision_is_that_of_all_weights(typed: Typed, root: Path, tmp_path: Path) -> None:
    done = export(typed, "served", tmp_path / "student", "--precision", "bfloat16")
    assert done.code == 0, done.err
    dtypes = {tensor.dtype for tensor in load_file(tmp_path / "student" / "model.safetensors").values()}
    assert dtypes == {torch.bfloat16}
    assert json.loads((tmp_path / "student" / "config.json").read_text())["torch_dtype"] == "bfloat16"


def test_what_does_not_fit_or_agree_leaves_nothing(
    typed: Typed, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = layout.ARCHITECTURES[0]

    def wrong(stack: Any) -> dict[str, Any]:
        return {**first.config(stack), "attention_multiplier": 1.0}

    monkeypatch.setattr(layout, "ARCHITECTURES", (replace(first, config=wrong),))
    done = export(typed, "served", tmp_path / "student")
    assert done.code == 2
    assert "the logits of transformers differ by" in done.err
    assert done.err.count("\n") == 1
    monkeypatch.undo()
    monkeypatch.setenv("LAB_OUTPUTS", str(root))
    for words, message in (
        (("--precision", "float16"), "precision=float16: choose from"),
        (("--format", "onnx"), "format=onnx: choose from mmmamba, transformers, gguf"),
    ):
        done = export(typed, "served", tmp_path / "student", *words)
        assert (done.code, message in done.err) == (2, True), done.err
    assert list(tmp_path.iterdir()) == []


def test_a_student_without_a_home_is_refused_before_it_is_read(
    typed: Typed, distilled: Any, outputs: Path, tmp_path: Path
) -> None:
    type(distilled)(outputs, distilled.teacher).run("turned", "stage=1", "student.mixer.rotary=true")
    for path in (outputs / "distill" / "runs" / "turned").rglob("model.safetensors"):
        path.unlink()
    done = export(typed, "turned", tmp_path / "student")
    assert done.code == 2
    assert "student.mixer.rotary=true" in done.err
    assert "--format mmmamba" in done.err
    assert not (tmp_path / "student").exists()
