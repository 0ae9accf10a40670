"""Where the prompts of `lab generate` come from: files, standard input, lines of requests, and conversations."""

import json
import shutil
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from lab.core.models.checkpoint import ONE_FILE
from lab.core.models.generation import SamplingConfig
from lab.core.runs.random_streams import Seeds
from lab.core.runs.sums import SUMS
from lab.experiments.distill.generation.answer import Respondent
from lab.experiments.distill.generation.chat import Conversation
from lab.experiments.distill.load import open_model
from lab.experiments.distill.selector import StudentSelector
from reference.text_checkpoint import write_text_checkpoint

Typed = Callable[..., Any]
QUESTION = "How many pictures show a bag?"
FEW = ("--max-new-tokens", "6", "--threads", "1")


@pytest.fixture(autouse=True)
def outputs_of_the_student(distilled: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_OUTPUTS", str(distilled.root))


def type_in(monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    rest = iter(lines)

    def read(prompt: str = "") -> str:
        for line in rest:
            return line
        raise EOFError

    monkeypatch.setattr("builtins.input", read)


def test_a_prompt_from_a_file_or_standard_input_is_that_of_the_command_line(typed: Typed, tmp_path: Path) -> None:
    (tmp_path / "prompt.txt").write_text(f"{QUESTION}\n")
    expected = typed("generate", "hybrid", "--prompt", QUESTION, *FEW)
    assert expected.code == 0, expected.err
    assert typed("generate", "hybrid", "--prompt-file", str(tmp_path / "prompt.txt"), *FEW).out == expected.out
    for words, fix in (
        ((), "no prompt is given; give one of --prompt, --prompt-file, --requests, --chat"),
        (("--prompt", "a", "--chat"), "--prompt and --chat are given"),
        (("--prompt-file", str(tmp_path / "none.txt")), "none.txt cannot be read"),
        (("--prompt", "a", "--batch", "2"), "--batch 2 is for --requests"),
        (("--chat", "--raw"), "--raw leaves out the chat template"),
        (("--prompt", "a", "--raw", "--system", "b"), "--raw leaves out the chat template, which writes --system"),
        (("--chat", "--json", "a.json"), "--json is for one answer"),
        (("--requests", "a", "b", "--image", "c.png"), "--image belongs to one prompt"),
    ):
        refused = typed("generate", "hybrid", *words, *FEW)
        assert (refused.code, refused.out, refused.err.count("\n")) == (2, "", 1)
        assert fix in refused.err


def test_requests_are_answered_one_by_one_and_go_on_after_a_kill(typed: Typed, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (28, 28), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    requests, answers = tmp_path / "requests.jsonl", tmp_path / "answers.jsonl"
    asked = [{"prompt": QUESTION, "images": ["a.png"], "answer": "2"}, {"prompt": "How many?"}, {"prompt": QUESTION}]
    requests.write_text("\n\n".join(json.dumps(row) for row in asked))
    sampled = ("--temperature", "5", "--seed", "3", *FEW)

    def ask(*words: str) -> Any:
        return typed("generate", "hybrid", "--requests", str(requests), str(answers), *words)

    done = ask(*sampled)
    assert (done.code, done.out) == (0, ""), done.err
    assert "answers.jsonl: 3 answers; " in done.err
    whole = answers.read_bytes()
    rows = [json.loads(line) for line in whole.splitlines()]
    assert [row["line"] for row in rows] == [1, 3, 5]
    assert [row["request"] for row in rows] == asked
    alone = typed("generate", "hybrid", "--prompt", QUESTION, "--image", str(tmp_path / "a.png"), *FEW)
    greedy = tmp_path / "greedy.jsonl"
    assert typed("generate", "hybrid", "--requests", str(requests), str(greedy), *FEW).code == 0
    assert json.loads(greedy.read_text().splitlines()[0])["answer"]["text"] == alone.out.rstrip("\n")
    # killed within the second line
    first = whole.index(b"\n") + 1
    answers.write_bytes(whole[: first + 20])
    done = ask(*sampled)
    assert "3 answers, 1 of them there before" in done.err

    def texts(content: bytes) -> list[str]:
        return [json.loads(line)["answer"]["text"] for line in content.splitlines()]

    assert texts(answers.read_bytes()) == texts(whole)
    # side by side, in any order: the same
    several = tmp_path / "several.jsonl"
    words = ("--batch", "2", "--requests", str(requests), str(several))
    assert typed("generate", "hybrid", *words, *sampled).code == 0
    assert texts(several.read_bytes()) == texts(whole)
    refused = ask("--temperature", "4", "--seed", "3", *FEW)
    assert (refused.code, "about other pictures, or with other options; give a new file" in refused.err) == (2, True)
    # another picture by the same name
    Image.fromarray(255 - pixels).save(tmp_path / "a.png")
    refused = ask(*sampled)
    assert (refused.code, "about other pictures, or with other options; give a new file" in refused.err) == (2, True)
    assert texts(answers.read_bytes()) == texts(whole), "nothing is lost"


def test_answers_belong_to_the_weights_of_a_model_not_to_its_name(typed: Typed, tmp_path: Path) -> None:
    one, two = write_text_checkpoint(tmp_path / "one"), tmp_path / "two"
    shutil.copytree(one, two)
    requests, answers = tmp_path / "requests.jsonl", tmp_path / "answers.jsonl"
    requests.write_text('{"prompt": "a"}\n{"prompt": "b"}\n')

    def ask(model: Path) -> Any:
        return typed("generate", str(model), "--requests", str(requests), str(answers), *FEW)

    assert ask(one).code == 0
    whole = answers.read_bytes()
    answers.write_bytes(whole[: whole.index(b"\n") + 1])
    done = ask(two)
    assert (done.code, "2 answers, 1 of them there before" in done.err) == (0, True), done.err
    tensors = load_file(one / ONE_FILE)
    save_file({name: tensor + 1 for name, tensor in tensors.items()}, one / ONE_FILE)
    (one / SUMS).unlink()
    refused = ask(one)
    assert (refused.code, "answers of another model (digest of its weights " in refused.err) == (2, True), refused.err
    requests.write_text('{"prompt": "b"}\n')
    # before a model is looked for
    refused = ask(tmp_path / "none")
    assert (refused.code, "answers to other requests; give a new file" in refused.err) == (2, True), refused.err


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("{", "line 2: is not valid JSON"),
        ("[1]", 'line 2: is not an object with a text "prompt"'),
        ('{"prompt": 3}', 'line 2: is not an object with a text "prompt"'),
        ('{"prompt": "a", "images": "b"}', 'line 2: "images" is not a list of paths'),
        ('{"prompt": "a", "images": ["b.png"]}', "b.png does not exist"),
        ('{"prompt": " "}', "line 2: its prompt is empty"),
        ('{"prompt": "\\ud800"}', "line 2: has half of a character"),
        ('{"prompt": "a", "id": {"\\udfff": 1}}', "line 2: has half of a character"),
        ('{"prompt": "a", "more": ["\\ud800"]}', "line 2: has half of a character"),
        ('{"prompt": "a", "image": "b.png"}', 'line 2: "image" is not read; write "images"'),
        ('{"prompt": "a \u2028 b", "images": 3}', 'line 2: "images" is not a list'),
    ],
)
def test_wrong_requests_are_named_before_a_model_is_loaded(typed: Typed, tmp_path: Path, line: str, why: str) -> None:
    (tmp_path / "in.jsonl").write_text(f'{{"prompt": "How many?"}}\n{line}\n')
    refused = typed("generate", "no-such-model", "--requests", str(tmp_path / "in.jsonl"), str(tmp_path / "out.jsonl"))
    assert (refused.code, refused.err.count("\n"), why in refused.err) == (2, 1, True), refused.err
    assert not (tmp_path / "out.jsonl").exists()


def test_a_place_without_a_folder_is_refused_before_a_model_is_loaded(typed: Typed, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text('{"prompt": "How many?"}')
    target = tmp_path / "none" / "out.jsonl"
    refused = typed("generate", "no-such-model", "--requests", str(tmp_path / "in.jsonl"), str(target))
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert f"{target} cannot be written: there is no folder {target.parent}; make it" in refused.err


def test_a_byte_order_mark_belongs_to_no_prompt(typed: Typed, tmp_path: Path) -> None:
    (tmp_path / "prompt.txt").write_text(QUESTION, encoding="utf-8-sig")
    (tmp_path / "in.jsonl").write_text(json.dumps({"prompt": QUESTION}), encoding="utf-8-sig")
    expected = typed("generate", "hybrid", "--prompt", QUESTION, *FEW).out
    done = typed("generate", "hybrid", "--prompt-file", str(tmp_path / "prompt.txt"), *FEW)
    assert (done.code, done.out) == (0, expected), done.err
    answers = tmp_path / "out.jsonl"
    done = typed("generate", "hybrid", "--requests", str(tmp_path / "in.jsonl"), str(answers), *FEW)
    assert done.code == 0, done.err
    assert json.loads(answers.read_text())["answer"]["text"] == expected.rstrip("\n")


@pytest.mark.parametrize("line", ['{"prompt": "zzz"}', '{"prompt": "<image> Same?"}'])
def test_a_first_request_that_cannot_be_answered_is_refused_before_anything_is_written(
    typed: Typed, tmp_path: Path, line: str
) -> None:
    (tmp_path / "in.jsonl").write_text(line)
    done = typed("generate", "hybrid", "--requests", str(tmp_path / "in.jsonl"), str(tmp_path / "out.jsonl"), *FEW)
    assert (done.code, done.err.count("\n"), "in.jsonl, line 1: " in done.err) == (2, 1, True), done.err
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize("place", [12, -30, -5])
def test_an_answer_that_was_changed_is_named(typed: Typed, tmp_path: Path, place: int) -> None:
    answers = tmp_path / "out.jsonl"
    (tmp_path / "in.jsonl").write_text('{"prompt": "How many?"}\n' * 2)
    words = ("generate", "hybrid", "--requests", str(tmp_path / "in.jsonl"), str(answers), *FEW)
    assert typed(*words).code == 0
    first, second = answers.read_bytes().splitlines(keepends=True)
    changed = bytearray(second)
    changed[place] ^= 1
    answers.write_bytes(first + changed)
    done = typed(*words)
    assert (done.code, done.err.count("\n"), f"{answers}, line 2: " in done.err) == (2, 1, True), done.err
    answers.write_bytes(first)
    assert typed(*words).code == 0
    assert len(answers.read_bytes().splitlines()) == 2


def test_a_request_that_cannot_be_answered_leaves_the_answers_before_it(typed: Typed, tmp_path: Path) -> None:
    rows = [{"prompt": "How many?"}, {"prompt": "How zzz?"}]
    (tmp_path / "in.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    done = typed("generate", "hybrid", "--requests", str(tmp_path / "in.jsonl"), str(tmp_path / "out.jsonl"), *FEW)
    assert (done.code, "in.jsonl, line 2: the word 'zzz'" in done.err) == (2, True), done.err
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 1


def test_lines_are_the_turns_of_a_conversation(typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    type_in(monkeypatch, QUESTION, "", "How many?", "/new", QUESTION, "/end", "How many?")
    done = typed("generate", "hybrid", "--chat", *FEW)
    assert done.code == 0, done.err
    alone = typed("generate", "hybrid", "--prompt", QUESTION, *FEW)
    assert done.out.startswith(alone.out)
    assert done.out.endswith(alone.out)
    assert done.err.count("lab: prompt ") == 3


def test_a_turn_that_is_not_utf_8_is_refused(typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builtins.input", lambda: b"caf\xe9".decode())
    done = typed("generate", "hybrid", "--chat", *FEW)
    assert (done.code, done.err.count("\n")) == (2, 1), done.err
    assert "--chat: standard input is not UTF-8" in done.err


@pytest.mark.parametrize("name", ["hybrid", "second"])
def test_the_state_goes_on_from_turn_to_turn(name: str) -> None:
    opened = open_model(name, StudentSelector(), device=torch.device("cpu"), precision=None)
    respondent = Respondent(opened=opened, sampling=SamplingConfig(), max_new_tokens=3)
    conversation = Conversation(respondent, [], date(2025, 1, 1))
    turns: list[str] = []
    num_read: list[int] = []
    for number, question in enumerate((QUESTION, "How many?", "Same?")):
        turns.append(question)
        found = conversation.ask(question, Seeds(0).torch("generate", number))
        whole = respondent.answer(opened.read_turns(turns, []), Seeds(0).torch("generate"))
        assert (found.text, found.num_prompt_tokens) == (whole.text, whole.num_prompt_tokens)
        assert whole.num_read_tokens == whole.num_prompt_tokens
        # a model of a few steps writes tokens of images, which no turn may hold
        turns.append(found.text.replace("</img>", " "))
        num_read.append(found.num_read_tokens)
    assert num_read[1] < num_read[0], "the state knew the rest"
    assert num_read[2] > num_read[1], "it was made larger"
