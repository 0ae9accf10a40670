"""The keys of a tokenizer in a GGUF file, from a folder and from another GGUF file; the rest is refused."""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lab.core.data.prompt_format import TURN_END
from lab.core.data.tokenizers import WordTokenizer, load_tokenizer
from lab.core.errors import ConfigError, LabError
from lab.core.models.folder import ModelFolder
from lab.core.models.gguf import read_gguf_config
from lab.core.stock.gguf_file import keys_in
from lab.core.stock.gguf_granitehybrid import Value
from lab.core.stock.gguf_vocabulary import has_chat_template, vocabulary
from reference.tiny_gguf import ADDED, CHAT, write_gguf, write_json

pytest.importorskip("gguf", reason="gguf is not installed")
ROWS = 400
GPT2 = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
DIGITS = {"type": "Digits", "individual_digits": True}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_json(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    return tmp_path


def found(folder: Path, rows: int = ROWS, stops: frozenset[int] | None = None) -> dict[str, Value]:
    tokenizer = load_tokenizer(folder)
    if stops is None:
        stops = frozenset({tokenizer.id_of(TURN_END)})
    keys = vocabulary(tokenizer, ModelFolder(folder), vocab_size=rows, stop_ids=stops)
    return {name.removeprefix("tokenizer."): value for name, value in keys.items()}


def changed(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_a_vocabulary_is_that_of_the_file(folder: Path) -> None:
    tokenizer, keys = load_tokenizer(folder), found(folder)
    tokens, kinds = keys["ggml.tokens"], keys["ggml.token_type"]
    assert isinstance(tokens, list)
    assert isinstance(kinds, list)
    assert len(tokens) == len(kinds) == ROWS
    for token in ("<s>", *ADDED):
        assert tokens[tokenizer.id_of(token)] == token
        assert kinds[tokenizer.id_of(token)] == 3
    assert kinds[tokenizer.id_of("w")] == 1
    assert (tokens[-1], kinds[-1]) == (f"[PAD{ROWS - 1}]", 5)
    assert keys["ggml.pre"] == "gpt-2"
    assert keys["ggml.add_bos_token"] is True
    assert tokens[keys["ggml.bos_token_id"]] == "<s>"
    assert tokens[keys["ggml.eos_token_id"]] == TURN_END
    assert not has_chat_template(keys)
    merges = json.loads((folder / "tokenizer.json").read_text())["model"]["merges"]
    assert keys["ggml.merges"] == [pair if isinstance(pair, str) else " ".join(pair) for pair in merges]


def test_a_chat_template_and_the_end_of_a_text_come_along(folder: Path) -> None:
    settings = {"chat_template": "{{ messages[0].content }}", "eos_token": "<s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    tokenizer, keys = load_tokenizer(folder), found(folder)
    assert keys["chat_template"] == settings["chat_template"]
    assert keys["ggml.eos_token_id"] == tokenizer.id_of("<s>")
    assert keys["ggml.eot_token_id"] == tokenizer.id_of(TURN_END)


def test_every_token_that_ends_an_answer_has_a_key_or_is_refused(folder: Path) -> None:
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<s>"}))
    eos = load_tokenizer(folder).id_of("<s>")
    first, second, third = [number for number in range(10, 14) if number != eos][:3]
    keys = found(folder, stops=frozenset({eos, first, second}))
    assert {keys[f"ggml.{name}_token_id"] for name in ("eos", "eot", "eom")} == {eos, first, second}
    with pytest.raises(ConfigError, match=r"answers end at 4 tokens, llama\.cpp has keys for three"):
        found(folder, stops=frozenset({eos, first, second, third}))


def test_a_token_beyond_the_table_is_refused_though_there_are_few(folder: Path) -> None:
    changed(folder, lambda content: content["added_tokens"][0].update(id=ROWS))
    with pytest.raises(ConfigError, match=rf"a token has id {ROWS}, the table vocab_size={ROWS}"):
        found(folder)


def test_cuts_have_the_names_that_llama_cpp_knows(folder: Path) -> None:
    changed(folder, lambda content: content.update(pre_tokenizer={"type": "Sequence", "pretokenizers": [DIGITS, GPT2]}))
    assert found(folder)["ggml.pre"] == "smollm"
    # as Llama 3 has it
    regex = (
        "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*"
        "|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
    )
    split = {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}
    steps = [split, {**GPT2, "use_regex": False}]
    changed(folder, lambda content: content.update(pre_tokenizer={"type": "Sequence", "pretokenizers": steps}))
    changed(folder, lambda content: content["model"].update(ignore_merges=True))
    assert found(folder)["ggml.pre"] == "llama-bpe"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda content: content.update(pre_tokenizer=DIGITS), "its pre_tokenizer is none of those of gpt-2, smollm"),
        (lambda content: content.update(pre_tokenizer={**GPT2, "add_prefix_space": True}), "its pre_tokenizer is none"),
        (lambda content: content["model"].update(ignore_merges=True), "its pre_tokenizer is none"),
        (lambda content: content.update(normalizer={"type": "NFC"}), "without normalizer only"),
        (lambda content: content["model"].update(merges=[]), "merges=[]"),
    ],
)
def test_what_llama_cpp_does_not_know_is_refused(
    folder: Path, change: Callable[[dict[str, Any]], None], words: str
) -> None:
    changed(folder, change)
    with pytest.raises(ConfigError) as caught:
        found(folder)
    assert words in str(caught.value)
    assert str(caught.value).endswith("--format transformers would do")
    assert "\n" not in str(caught.value)


def test_other_tokenizers_and_small_tables_are_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"the vocabulary of a built-in task: llama\.cpp gets"):
        vocabulary(WordTokenizer(["bag"]), None, vocab_size=ROWS, stop_ids=frozenset())
    with pytest.raises(ConfigError, match=r"a token has id \d+, the table vocab_size=20"):
        found(folder, rows=20)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("add_bos", [None, True, False])
def test_a_gguf_teacher_s_keys_are_kept_as_they_are(tmp_path: Path, add_bos: bool | None) -> None:
    write_gguf(tmp_path / "tiny.gguf", add_bos=add_bos)
    tokenizer = load_tokenizer(tmp_path / "tiny.gguf")
    keys = vocabulary(tokenizer, ModelFolder(tmp_path / "tiny.gguf"), vocab_size=ROWS, stop_ids=frozenset())
    # what the teacher's file leaves open is said
    says = {"tokenizer.ggml.add_bos_token": tokenizer.bos_id is not None}
    assert keys == says | keys_in(tmp_path / "tiny.gguf", "tokenizer.")
    assert (tokenizer.bos_id is not None) == bool(add_bos)
    assert keys["tokenizer.chat_template"] == CHAT
    tokens = keys["tokenizer.ggml.tokens"]
    assert isinstance(tokens, list)
    assert tokens.index(TURN_END) == tokenizer.id_of(TURN_END)


@pytest.mark.filterwarnings("ignore")
def test_the_numbers_of_a_gguf_teacher_are_those_that_were_written(tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf")
    content = read_gguf_config(tmp_path / "tiny.gguf")
    # in float32 in the file
    assert content["rms_norm_eps"] == 1e-5
    assert str(Path(tempfile.gettempdir())) not in json.dumps(content)


def test_a_student_s_file_is_known_by_its_first_key(tmp_path: Path) -> None:
    import gguf  # noqa: PLC0415

    writer = gguf.GGUFWriter(tmp_path / "student.gguf", "granitehybrid")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(LabError, match=r"student\.gguf is a granitehybrid, which llama\.cpp runs") as caught:
        read_gguf_config(tmp_path / "student.gguf")
    assert "\n" not in str(caught.value)
    (tmp_path / "cut.gguf").write_bytes((tmp_path / "student.gguf").read_bytes()[:30])
    with pytest.raises(LabError, match=r"cut\.gguf"):
        read_gguf_config(tmp_path / "cut.gguf")
