"""`lab generate`: what it prints, from every kind of model, and what it says of its memory."""

import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lab.core.data.batch import to_tensors
from lab.core.data.chat_template import encode_conversation
from lab.core.data.prompt_format import TURN_END
from lab.core.data.sample import Sample, pad
from lab.core.data.tiling import cut_tiles
from lab.core.data.tokenizers import load_tokenizer
from lab.core.mixers.rotary import RotaryConfig
from lab.core.models.checkpoint import write_checkpoint
from lab.core.models.families import build_random
from lab.core.models.folder import ModelFolder
from lab.core.models.hovle.model import Hovle
from lab.core.models.llama import config as llama
from lab.core.models.llama.config import LlamaConfig
from lab.core.models.spec import key_map
from lab.core.models.text_model import TextModel
from lab.core.products.implementations import IMPLEMENTATIONS
from lab.core.runs.sums import SUMS
from lab.experiments.distill.data import PromptConfig, prompt_format
from lab.experiments.distill.loss_mask import hidden_states

Typed = Callable[..., Any]
CPU = torch.device("cpu")
QUESTION = "How many pictures show a bag?"
FEW = ("--max-new-tokens", "6", "--threads", "1")


@pytest.fixture
def images(tmp_path: Path) -> tuple[Path, Path]:
    """A picture of one tile, and a wide one of two tiles and a thumbnail."""
    paths = tmp_path / "small.png", tmp_path / "wide.png"
    for path, width in zip(paths, (28, 56), strict=True):
        pixels = np.random.default_rng(width).integers(0, 256, (28, width), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    return paths


@pytest.fixture
def exported(typed: Typed, distilled: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hybrid student as a folder."""
    monkeypatch.setenv("LAB_OUTPUTS", str(distilled.root))
    done = typed("export", "hybrid", str(tmp_path / "student"))
    assert done.code == 0, done.err
    return tmp_path / "student"


def test_an_answer_is_the_likeliest_of_the_batches_of_the_training(
    typed: Typed, exported: Path, images: tuple[Path, Path]
) -> None:
    prompt = f"<image>\n<image>\n{QUESTION}"
    words = [word for path in images for word in ("--image", str(path))]
    done = typed("generate", str(exported), "--prompt", prompt, *words, *FEW)
    assert done.code == 0, done.err
    model, tokenizer = ModelFolder(exported).load(device=CPU, dtype=torch.float32), load_tokenizer(exported)
    assert isinstance(model, Hovle)
    written = prompt_format(PromptConfig(), model.config)
    tiles = [cut_tiles(Image.open(path), written) for path in images]
    expected: list[int] = []
    while len(expected) < 6 and (not expected or expected[-1] != tokenizer.id_of(TURN_END)):
        conversation = encode_conversation(
            [prompt], [len(cut) for cut in tiles], tokenizer=tokenizer, prompt_format=written
        )
        batch = to_tensors(pad([Sample(np.concatenate(tiles), conversation, (), written.colours)]))
        more = torch.tensor([[*batch.llm_ids[0].tolist(), *expected]])
        longer = type(batch)(batch.pixel_values, more, more, more, torch.tensor([0]), torch.tensor([more.shape[1]]), ())
        expected.append(int(model.logits(hidden_states(model, longer))[0, -1, : len(tokenizer)].argmax()))
    ended = expected[-1] == tokenizer.id_of(TURN_END)
    assert done.out == tokenizer.decode(expected[:-1] if ended else expected) + "\n"


def test_a_run_and_its_exported_folder_say_the_same(
    typed: Typed, exported: Path, images: tuple[Path, Path], tmp_path: Path
) -> None:
    asked = ("--prompt", QUESTION, "--image", str(images[1]), *FEW)
    run, folder = typed("generate", "hybrid", *asked), typed("generate", str(exported), *asked)
    assert run.code == folder.code == 0, run.err + folder.err
    named = typed("generate", "hybrid@3", *asked, "--json", str(tmp_path / "answer.json"))
    assert run.out == folder.out == named.out
    assert json.loads((tmp_path / "answer.json").read_text())["model"] == "hybrid@3"
    mixed = typed("generate", "hybrid@3", *asked, "--stage", "3")
    assert mixed.code == 2
    assert mixed.err.startswith("lab: hybrid@3 chooses a student, and so do --stage")
    seeds = [
        typed("generate", "hybrid", *asked, "--temperature", "5", "--top-p", "0.99", "--seed", seed).out
        for seed in ("1", "1", "2")
    ]
    assert seeds[0] == seeds[1] != seeds[2]


def test_products_are_computed_as_asked_or_refused(typed: Typed, exported: Path) -> None:
    asked = ("generate", str(exported), "--prompt", QUESTION, *FEW)
    here = [name for name, each in IMPLEMENTATIONS.items() if each.why_not(CPU, torch.float32) is None]
    answers = [typed(*asked, "--products", name) for name in ("auto", *here)]
    assert {(done.code, done.out) for done in answers} == {(0, answers[0].out)}
    for words in (("--products", "mkl"), ("--products", "onednn", "--precision", "float64")):
        done = typed(*asked, *words)
        assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
        assert done.err.startswith(f"lab: products={words[1]}")


def test_the_last_line_says_speed_length_and_memory(
    typed: Typed, distilled: Any, exported: Path, images: tuple[Path, Path], tmp_path: Path
) -> None:
    def said(model: str, number: int) -> str:
        asked = ("--prompt", QUESTION, "--image", str(images[1]), "--threads", "1", "--temperature", "9")
        done = typed("generate", model, *asked, "--max-new-tokens", str(number), "--json", str(tmp_path / "out.json"))
        assert done.err.count("\n") == 1
        return str(done.err)

    line = said(str(exported), 6)
    match = re.search(r"prompt (\d+) tokens, 3 tiles, read in \S+ s; answer \d+ tokens?", line)
    assert match is not None, line
    num_prompt = int(match[1])
    # keys and values of one layer with one key head of 8 channels in float32; prompt and answer but for its last token
    assert f"{2 * 4 * 8 * (num_prompt + 5):,} bytes in 1 softmax layers" in line
    constant = re.search(r"[\d,]+ bytes in 1 mamba2 layers", line)
    assert constant is not None
    assert constant[0] in said(str(exported), 40), "the state does not grow"
    content = json.loads((tmp_path / "out.json").read_text())
    assert content["num_prompt_tokens"] == num_prompt
    assert content["num_tiles"] == 3
    assert {part["kind"]: part["num_layers"] for part in content["memory"]} == {"softmax": 1, "mamba2": 1}
    assert content["template"] == "internlm2-chat"
    assert "chat template: internlm2-chat" in line
    assert "2 softmax layers" in said(str(distilled.teacher), 6)
    assert "2 mamba2 layers" in said("second", 6)


def test_system_and_tiles_are_those_of_the_training_unless_told_otherwise(
    typed: Typed, distilled: Any, outputs: Path, images: tuple[Path, Path], tmp_path: Path
) -> None:
    type(distilled)(outputs, distilled.teacher).run("told", "stage=1", "prompt.system=Even", "prompt.max_tiles=1")
    assert typed("export", "told", str(tmp_path / "student")).code == 0

    def length(model: str, *more: str) -> int:
        done = typed("generate", model, "--prompt", QUESTION, "--image", str(images[1]), *FEW, *more)
        return int(re.search(r"prompt (\d+) tokens", done.err)[1])  # type: ignore[index]

    short = length("told")
    assert length(str(tmp_path / "student")) == short
    assert length("told", "--system", "") == short - 1
    assert length("told", "--max-tiles", "12") == short + 2 * 4


def test_the_folder_of_a_run_that_trained_a_teacher(typed: Typed, teacher: Path, outputs: Path) -> None:
    folder = outputs / "distill" / "runs" / "new"
    folder.mkdir(parents=True)
    overrides = {"stage": "teacher", "teacher": {"path": str(teacher)}, "data": {"picture_questions": {}}}
    overrides["student"] = {"mixer": {"kind": "mamba2"}}
    (folder / "config.json").write_text(json.dumps(overrides))
    done = typed("generate", "new", "--prompt", QUESTION, *FEW)
    assert done.code == 2
    assert "new has no finished teacher" in done.err
    (folder / "teacher").symlink_to(teacher)
    done = typed("generate", "new", "--prompt", QUESTION, *FEW)
    assert done.code == 0, done.err
    done = typed("export", "new", "out")
    assert "trained a teacher, not a student; its checkpoint folder is" in done.err


@pytest.fixture
def text_model() -> TextModel:
    """A decoder of two layers with random weights."""
    config = LlamaConfig(
        num_layers=2,
        hidden_size=16,
        intermediate_size=16,
        num_heads=2,
        num_kv_heads=1,
        head_dim=8,
        vocab_size=96,
        rms_norm_eps=1e-5,
        rotary=RotaryConfig(theta=1e4, max_length=64),
    )
    model = build_random(config, device=CPU, dtype=torch.float32, generator=torch.Generator().manual_seed(0), std=0.3)
    assert isinstance(model, TextModel)
    return model


def write_text_model(model: TextModel, folder: Path, teacher: Path, **more: Any) -> None:
    """Its checkpoint, with the words of the task that ships."""
    tensors = key_map(model).to_public(model.state_dict())
    write_checkpoint(folder, tensors, {**llama.write(model.config), **more}, carried=[teacher / "vocabulary.json"])


def test_a_text_model_completes_a_raw_prompt(
    typed: Typed, text_model: TextModel, teacher: Path, tmp_path: Path
) -> None:
    model = text_model
    words = load_tokenizer(teacher)
    tokens = torch.tensor([words.encode("How many pictures")])
    likeliest = []
    for _ in range(3):
        logits = model.llm.logits(model.llm(model.llm.tokens(tokens)))
        likeliest.append(int(logits[0, -1, : len(words)].argmax()))
        tokens = torch.cat([tokens, torch.tensor([[likeliest[-1]]])], dim=1)
    folder = tmp_path / "text"
    write_text_model(model, folder, teacher, eos_token_id=likeliest[2])
    done = typed("generate", str(folder), "--prompt", "How many pictures", "--raw", "--threads", "1")
    assert done.code == 0, done.err
    expected = likeliest[: likeliest.index(likeliest[2])]
    assert done.out == words.decode(expected) + "\n"
    assert "stopped at end of turn" in done.err
    Image.new("RGB", (8, 8)).save(picture := tmp_path / "a.png")
    refused = typed("generate", str(folder), "--prompt", "How", "--image", str(picture))
    assert refused.code == 2
    assert f"image={picture}: this model reads text only" in refused.err


def test_a_text_student_is_exported_and_answers_as_its_run(
    typed: Typed, distilled: Any, text_model: TextModel, outputs: Path, tmp_path: Path
) -> None:
    write_text_model(text_model, tmp_path / "text", distilled.teacher)
    words = ("even", "odd", "same", "different")
    turns = [[f"What is {words[n % 4]} and {words[n // 4 % 4]}?", words[(n + 1) % 4]] for n in range(40)]
    lines = [json.dumps({"conversations": [{"value": turn} for turn in pair]}) for pair in turns]
    (tmp_path / "chats.jsonl").write_text("\n".join(lines))
    files = [f"data.conversations.path={tmp_path}/chats.jsonl", f"data.conversations.image_folder={tmp_path}"]
    hybrid = ["student=hybrid", "student.hybrid.number=2", "data.conversations.held_out_share=0.3"]
    runs = type(distilled)(outputs, tmp_path / "text")
    runs.run("text", "stage=all", "data=conversations", *files, *hybrid)
    done = typed("export", "text", str(tmp_path / "student"))
    assert "1 mha and 1 mamba2 layers" in done.out, done.err
    asked = ("--prompt", "What is even and odd?", *FEW)
    run, folder = typed("generate", "text", *asked), typed("generate", str(tmp_path / "student"), *asked)
    assert run.code == folder.code == 0, run.err + folder.err
    assert run.out == folder.out
    assert "1 softmax layers" in folder.err


def test_an_answer_stops_at_the_length_of_the_training(typed: Typed, distilled: Any) -> None:
    folder = distilled.teacher
    room = json.loads((folder / "config.json").read_text())["llm_config"]["max_position_embeddings"]
    prompt = "How " * (room - 20)
    done = typed("generate", str(folder), "--prompt", prompt, "--threads", "1", "--temperature", "1", "--seed", "3")
    assert done.code == 0, done.err
    assert "stopped at the length that the model was trained on" in done.err


def test_a_file_in_the_place_of_a_folder_is_named(typed: Typed, teacher: Path) -> None:
    done = typed("generate", str(teacher / "model.safetensors"), "--prompt", QUESTION)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "model.safetensors is a file; give the folder that it is in, or a GGUF file" in done.err


def test_a_damaged_note_on_prompts_is_named(typed: Typed, exported: Path) -> None:
    content = json.loads((exported / "config.json").read_text())
    (exported / "config.json").write_text(json.dumps({**content, "prompt": {"max_tiles": 0}}))
    (exported / SUMS).unlink()
    done = typed("generate", str(exported), "--prompt", QUESTION)
    assert done.code == 2
    assert "prompt={'max_tiles': 0} is not a valid prompt format" in done.err


def test_a_wrong_bit_in_an_exported_folder_is_refused_wherever_it_is_read(
    typed: Typed, distilled: Any, exported: Path
) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    draw = random.Random(seed)
    goes_on = ("distill", f"teacher.path={distilled.teacher}", "teacher.hovle=null", "stage=2", f"from_run={exported}")
    files = [path for path in sorted(exported.iterdir()) if path.name != SUMS]
    assert len(files) == 3
    for path in files:
        whole = path.read_bytes()
        changed = bytearray(whole)
        changed[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
        path.write_bytes(changed)
        readers = [("generate", str(exported), "--prompt", QUESTION)]
        # the words of a teacher are its own
        readers += [goes_on] if path.name != "vocabulary.json" else []
        for words in readers:
            done = typed(*words)
            assert (done.code, done.out) == (2, "")
            assert done.err.startswith(f"lab: {path} is ")
            assert done.err.count("\n") == 1
        path.write_bytes(whole)
    assert typed("generate", str(exported), "--prompt", QUESTION, *FEW).code == 0


def test_the_weights_may_come_in_another_precision(typed: Typed, distilled: Any) -> None:
    done = typed("generate", str(distilled.teacher), "--prompt", QUESTION, "--precision", "bfloat16", *FEW)
    assert done.code == 0, done.err
    wide = typed("generate", str(distilled.teacher), "--prompt", QUESTION, "--precision", "float64", *FEW)

    def kept(text: str) -> int:
        return int(re.search(r"kept: ([\d,]+) bytes", text)[1].replace(",", ""))  # type: ignore[index]

    assert kept(wide.err) == 4 * kept(done.err)
