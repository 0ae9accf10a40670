"""Tokenizers and chat templates as transformers reads them, and pictures as its image processor cuts them."""

import json
import random
import stat
from datetime import date
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pytest
import torch
from PIL import Image

from lab.core.data.batch import normalize
from lab.core.data.chat_template import encode_conversation
from lab.core.data.chat_template_jinja import chat_template
from lab.core.data.conversation import encode
from lab.core.data.image_processor_json import image_processor_json
from lab.core.data.jinja_chat import SETTINGS_FILE, TEMPLATE_FILE, chat_of_folder
from lab.core.data.prompt_format import IMAGE_CONTEXT, IMAGE_END, IMAGE_START, TURN_END, TURN_START, PromptFormat
from lab.core.data.tiling import cut_tiles
from lab.core.data.tokenizers import WordTokenizer, load_tokenizer
from lab.core.data.word_tokenizer_json import write_word_tokenizer
from lab.core.models.folder import ModelFolder
from lab.core.stock.tokenizer_files import settled_difference, tokenizer_difference, write_tokenizer
from reference.chat_templates import TEMPLATES, messages_of
from reference.chat_templates import write_tokenizer as write_template
from reference.tiny_gguf import ADDED, write_gguf
from reference.tiny_sentencepiece import sentencepiece_model

WORDS = ["which", "bag", "is", "it", "\n", "?", ".", "a-b", "<", ">"]
SYSTEM = 'is "it" a-b'
FORMAT = PromptFormat(system=SYSTEM, image_size=28, patch_size=7)


@pytest.mark.parametrize("has_bos", [False, True])
def test_the_template_writes_what_training_wrote(has_bos: bool) -> None:
    template = jinja2.Environment().from_string(chat_template(SYSTEM, has_bos=has_bos))
    turns = [{"role": "user", "content": "which bag is it?"}, {"role": "assistant", "content": "a-b"}]
    found = template.render(messages=turns, add_generation_prompt=True, bos_token="<s>")
    assert found == "<s>" * has_bos + (
        f"<|im_start|>system\n{SYSTEM}<|im_end|><|im_start|>user\nwhich bag is it?<|im_end|>"
        "<|im_start|>assistant\na-b<|im_end|><|im_start|>assistant\n"
    )
    own = [
        {"role": "system", "content": ""},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "it"}]},
    ]
    found = template.render(messages=own, bos_token="")
    image = f"{IMAGE_START}{IMAGE_CONTEXT}{IMAGE_END}"
    assert found == f"<|im_start|>system\n<|im_end|><|im_start|>user\n{image}\nit<|im_end|>"


def test_words_are_read_and_written_as_lab_does(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    ours = WordTokenizer(WORDS)
    write_word_tokenizer(ours, tmp_path)
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    draw = random.Random(0)
    for _ in range(200):
        ids = [draw.randrange(len(ours)) for _ in range(draw.randint(1, 9))]
        text = ours.decode(ids)
        assert theirs.decode(ids, skip_special_tokens=False) == text
        assert theirs.encode(text).ids == ours.encode(text)
    with pytest.raises(Exception, match="UNK"):
        theirs.encode("unknown")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_chat_has_the_ids_of_training(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer = WordTokenizer([*WORDS, "system", "user", "assistant", '"it"'])
    write_tokenizer(tmp_path, tokenizer, None, chat_template(SYSTEM, has_bos=False))
    assert {stat.S_IMODE(path.stat().st_mode) & 0o077 for path in tmp_path.iterdir()} != {0}
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    chat = [{"role": "user", "content": "which bag is it?"}]
    expected = encode_conversation([chat[0]["content"]], [], tokenizer=tokenizer, prompt_format=FORMAT)
    found = theirs.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
    assert list(found) == expected.llm_ids.tolist()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("size", [(28, 28), (100, 40), (300, 301), (17, 90), (57, 57)])
def test_pictures_become_the_same_tiles(tmp_path: Path, size: tuple[int, int]) -> None:
    transformers = pytest.importorskip("transformers")
    for name, content in image_processor_json(FORMAT).items():
        (tmp_path / name).write_text(json.dumps(content))
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    found = processor(image, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(found, normalize(cut_tiles(image, FORMAT)), rtol=0, atol=0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("where", ["settings", "file", "processor"])
def test_the_teacher_s_tokenizer_and_template_are_carried_and_its_code_is_not(tmp_path: Path, where: str) -> None:
    pytest.importorskip("transformers")
    teacher, student = tmp_path / "teacher", tmp_path / "student"
    teacher.mkdir()
    student.mkdir()
    write_word_tokenizer(WordTokenizer(WORDS), teacher)
    (teacher / "config.json").write_text(json.dumps({"model_type": "llama"}))
    (teacher / "tokenization_own.py").write_text("raise SystemExit")
    settings: dict[str, Any] = json.loads((teacher / SETTINGS_FILE).read_text())
    settings |= {"tokenizer_class": "OwnTokenizer", "auto_map": {"AutoTokenizer": ["tokenization_own.Own", None]}}
    if where == "settings":
        settings["chat_template"] = "{{ messages[0]['content'] }}"
    elif where == "processor":
        (teacher / "chat_template.json").write_text(json.dumps({"chat_template": "{{ messages[0]['content'] }}"}))
    else:
        (teacher / TEMPLATE_FILE).write_text("{{ messages[0]['content'] }}")
    (teacher / SETTINGS_FILE).write_text(json.dumps(settings))
    tokenizer = load_tokenizer(teacher)
    write_tokenizer(student, tokenizer, ModelFolder(teacher), None)
    assert not (student / "tokenization_own.py").exists()
    assert "auto_map" not in json.loads((student / SETTINGS_FILE).read_text())
    chat = chat_of_folder(student)
    assert chat is not None
    assert chat.source == "{{ messages[0]['content'] }}"
    assert chat.origin == (SETTINGS_FILE if where == "settings" else TEMPLATE_FILE)
    assert not (student / "chat_template.json").exists()
    ids = [tokenizer.id_of(word) for word in ("which", "bag", "?")]
    assert tokenizer_difference(student, tokenizer, ids) is None
    (student / "tokenizer.json").write_text("{}")
    assert tokenizer_difference(student, tokenizer, ids) is not None


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [*TEMPLATES, "gguf"])
def test_a_chat_has_the_ids_of_the_teacher_s_family(tmp_path: Path, name: str) -> None:
    transformers = pytest.importorskip("transformers")
    teacher, student = tmp_path / "teacher", tmp_path / "student"
    for folder in (teacher, student):
        folder.mkdir()
    if name == "gguf":
        write_gguf(teacher / "tiny.gguf")
        teacher /= "tiny.gguf"
    else:
        write_template(teacher, TEMPLATES[name])
        (teacher / "config.json").write_text(json.dumps({"model_type": "llama"}))
    tokenizer = load_tokenizer(teacher)
    write_tokenizer(student, tokenizer, ModelFolder(teacher), None)
    assert settled_difference(student, tokenizer, range(200)) is None
    theirs = transformers.AutoTokenizer.from_pretrained(student)
    turns = ['Is 2 < 3 & "yes"?', "Yes, it's.", "Why?"]
    for count in (1, 3):
        found = theirs.apply_chat_template(messages_of(turns[:count]), add_generation_prompt=True, return_dict=False)
        written = PromptFormat(has_images=False)
        expected = encode(turns[:count], [], tokenizer=tokenizer, prompt_format=written, day=date.today())
        assert list(found) == expected.llm_ids.tolist()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("place", ["behind the pieces", "in place of pieces", "beyond a gap"])
def test_a_chat_has_the_ids_of_a_sentencepiece_vocabulary(tmp_path: Path, place: str) -> None:
    transformers = pytest.importorskip("transformers")
    teacher, student = tmp_path / "teacher", tmp_path / "student"
    for folder in (teacher, student):
        folder.mkdir()
    write_sentencepiece(teacher, place)
    (teacher / "config.json").write_text(json.dumps({"model_type": "llama"}))
    tokenizer = load_tokenizer(teacher)
    write_tokenizer(student, tokenizer, ModelFolder(teacher), chat_template(SYSTEM, has_bos=True))
    marks = [tokenizer.id_of(token) for token in (IMAGE_START, IMAGE_CONTEXT, IMAGE_END, TURN_START, TURN_END)]
    assert settled_difference(student, tokenizer, [*range(200), *marks]) is None
    theirs = transformers.AutoTokenizer.from_pretrained(student)
    for question in ("which bag is it?", " bag\né漢 a-b", "  it\n\n is"):
        chat = [{"role": "user", "content": question}]
        found = theirs.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
        expected = encode_conversation([question], [], tokenizer=tokenizer, prompt_format=FORMAT)
        assert list(found) == expected.llm_ids.tolist()
    assert load_tokenizer(student).encode(TURN_START) == tokenizer.encode(TURN_START)


def write_sentencepiece(folder: Path, place: str) -> None:
    """A vocabulary of pieces, and the tokens of chats and pictures beside it."""
    sentencepiece: Any = pytest.importorskip("sentencepiece")
    symbols = [f"[UNUSED_{number}]" for number in range(5)]
    text = 'user system assistant which bag is "it" a-b?'
    model = sentencepiece_model(text, vocab_size=310, user_defined_symbols=symbols)
    (folder / "tokenizer.model").write_bytes(model)
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model)
    first = {
        "behind the pieces": pieces.get_piece_size(),
        "in place of pieces": pieces.piece_to_id("[UNUSED_0]"),
        "beyond a gap": pieces.get_piece_size() + 40,
    }
    added = {token: first[place] + number for number, token in enumerate(ADDED)}
    (folder / "added_tokens.json").write_text(json.dumps(added))
    # the tokens of pictures stand in the other file only
    described = {str(added[token]): {"content": token, "special": True} for token in (TURN_START, TURN_END)}
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    settings = {**names, "added_tokens_decoder": described, "auto_map": {"AutoTokenizer": ["own.Own", None]}}
    (folder / SETTINGS_FILE).write_text(json.dumps(settings))
