"""Chat templates of public checkpoints, beside transformers, and the labels of conversations that they write."""

import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from lab.core.data.chat_template import IGNORED
from lab.core.data.conversation import INTERNLM2, encode, template_of
from lab.core.data.jinja_chat import JinjaChat, chat_of_folder
from lab.core.data.prompt_format import TURN_END, PromptFormat
from lab.core.data.tokenizers import WordTokenizer, load_tokenizer
from lab.core.errors import CheckpointError, InputError
from lab.core.tokenizer import Tokenizer
from reference.chat_templates import TEMPLATES, messages_of, write_tokenizer

TEXT_ONLY = PromptFormat(has_images=False)
DAY = date(2025, 3, 9)
TURNS = ('Is 2 < 3 & "yes"?', "Yes, it's.", "Why?", "  Because. ", "Sure?")


@pytest.mark.parametrize("in_file", [False, True])
@pytest.mark.parametrize("system", ["", "Be brief."])
@pytest.mark.parametrize("name", list(TEMPLATES))
def test_ids_are_those_of_transformers(name: str, system: str, in_file: bool, tmp_path: Path) -> None:
    transformers: Any = pytest.importorskip("transformers")
    write_tokenizer(tmp_path, TEMPLATES[name], in_file=in_file)
    tokenizer = load_tokenizer(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for count in (1, 3, 4, 5):
        turns = TURNS[:count]
        if system and name == "mistral":
            with pytest.raises(InputError, match="roles must alternate"):
                encode(turns, [], tokenizer=tokenizer, prompt_format=PromptFormat(has_images=False, system=system))
            continue
        today = date.today()
        ours = encode(
            turns, [], tokenizer=tokenizer, prompt_format=PromptFormat(has_images=False, system=system), day=today
        )
        expected = theirs.apply_chat_template(
            messages_of(turns, system), tokenize=True, add_generation_prompt=count % 2 == 1, return_dict=False
        )
        assert ours.llm_ids.tolist() == list(expected)


@pytest.mark.parametrize("name", list(TEMPLATES))
def test_labels_are_what_the_model_would_generate(name: str, tmp_path: Path) -> None:
    write_tokenizer(tmp_path, TEMPLATES[name])
    tokenizer = load_tokenizer(tmp_path)
    turns = TURNS[:4]
    found = encode(turns, [], tokenizer=tokenizer, prompt_format=TEXT_ONLY)
    assert len(found.answers) == len(turns) // 2
    end = {"llama": "<|eot|>", "mistral": "</s>", "phi3": "<|eot|>"}.get(name, TURN_END)
    for answer, (start, stop) in zip(turns[1::2], found.answers, strict=True):
        words = answer.strip() if name == "llama" else answer
        assert tokenizer.decode(found.labels[start:stop].tolist()) == f"{words}{end}"
        # what stands before it is the prompt of the generation
        prompt = encode(
            turns[: 2 * found.answers.index((start, stop)) + 1], [], tokenizer=tokenizer, prompt_format=TEXT_ONLY
        )
        assert found.llm_ids[:start].tolist() == prompt.llm_ids.tolist()
    inside = sum(stop - start for start, stop in found.answers)
    assert (found.labels != IGNORED).sum() == inside


def test_a_template_that_rewrites_earlier_answers_is_refused(tmp_path: Path) -> None:
    source = (
        "{% for message in messages %}[{{ message.role }}]{% if message.role == 'assistant' and not loop.last %}..."
        "{% else %}{{ message.content }}{% endif %}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    write_tokenizer(tmp_path, source)
    tokenizer = load_tokenizer(tmp_path)
    assert len(encode(TURNS[:2], [], tokenizer=tokenizer, prompt_format=TEXT_ONLY).answers) == 1
    with pytest.raises(InputError, match=r"tokenizer_config\.json writes an answer otherwise"):
        encode(TURNS[:4], [], tokenizer=tokenizer, prompt_format=TEXT_ONLY)


def test_the_day_is_the_user_s_or_always_the_same() -> None:
    chat = JinjaChat("{{ strftime_now('%d %b %Y') }}", (), "a file")
    assert chat.render([], is_open=False) == "26 Jul 2024"
    assert chat.render([], is_open=False, day=DAY) == "09 Mar 2025"


def test_names_of_special_tokens_come_from_either_file(tmp_path: Path) -> None:
    (tmp_path / "special_tokens_map.json").write_text(
        json.dumps({"eos_token": {"content": "<end>"}, "pad_token": None})
    )
    content = {"bos_token": {"content": "<s>"}, "chat_template": [{"name": "tool_use", "template": "no"}]}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(content))
    assert chat_of_folder(tmp_path) is None, "for conversations with tools only"
    content["chat_template"].append({"name": "default", "template": "{{ bos_token ~ eos_token }}"})  # type: ignore[attr-defined]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(content))
    chat = chat_of_folder(tmp_path)
    assert chat is not None
    assert chat.render([], is_open=True) == "<s><end>"
    chat.write(tmp_path)
    written = chat_of_folder(tmp_path)
    assert written is not None
    assert (written.source, written.origin) == (chat.source, "chat_template.jinja")
    assert dict(written.special_tokens) == {"bos_token": "<s>", "eos_token": "<end>"}


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages.__class__.__mro__[1].__subclasses__() }}",
        "{{ ''.__class__.__base__ }}",
        "{{ raise_exception.__globals__ }}",
        "{{ strftime_now.__self__.__class__ }}",
        "{{ messages|attr('__class__') }}",
        "{{ '%s'.format.__func__ }}",
        "{% for i in range(1000000) %}{% endfor %}",
        "{{ messages.append('x') }}",
        "{{ 1 // 0 }}",
        "{{ messages[7].content }}",
        "{% for %}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}",
        "{{ raise_exception('not like this') }}",
    ],
)
def test_a_template_reaches_nothing_but_the_conversation(source: str) -> None:
    try:
        assert JinjaChat(source, (), "a file").render(messages_of(TURNS), is_open=True) == ""
    except InputError as error:
        assert str(error).startswith("the chat template of a file cannot be rendered: ")  # noqa: PT017


@pytest.mark.parametrize("content", ["[]", "{", '{"chat_template": 3}'])
def test_damaged_files_are_named(content: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"tokenizer_config\.json"):
        chat_of_folder(tmp_path)


def test_a_model_without_a_template_is_said(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, None)
    tokenizer: Tokenizer = load_tokenizer(tmp_path)
    assert template_of(tokenizer, TEXT_ONLY) == INTERNLM2, "it knows the turns"
    words = WordTokenizer(["yes"])
    assert template_of(words, PromptFormat()) == INTERNLM2
    bare = type("Bare", (WordTokenizer,), {"id_of": lambda self, token: (_ for _ in ()).throw(InputError("no"))})(
        ["yes"]
    )
    assert template_of(bare, TEXT_ONLY) is None
    with pytest.raises(InputError, match="has no chat template"):
        encode(["yes"], [], tokenizer=bare, prompt_format=TEXT_ONLY)
