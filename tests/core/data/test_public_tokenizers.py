"""The tokenizers of public checkpoints recognise the tokens of conversations, and damaged files are refused."""

import json
import sys
from pathlib import Path

import pytest

from lab.core.data.chat_template import encode_conversation
from lab.core.data.prompt_format import IMAGE_CONTEXT, IMAGE_END, IMAGE_START, TURN_END, TURN_START, PromptFormat
from lab.core.data.public_tokenizers import GgufTokenizer
from lab.core.data.tokenizers import WordTokenizer, load_tokenizer
from lab.core.errors import BackendError, CheckpointError, InputError
from lab.core.models.folder import ModelFolder
from lab.core.tokenizer import Fingerprinted, Tokenizer
from reference.tiny_gguf import ADDED, write_gguf, write_json
from reference.tiny_sentencepiece import sentencepiece_model

TEXT = f"{TURN_START}user\n{IMAGE_START}{IMAGE_CONTEXT}{IMAGE_END}\nwhich bag is it?{TURN_END}"


def write_sentencepiece(folder: Path) -> None:
    model = sentencepiece_model("user system assistant which bag is it?", vocab_size=300)
    (folder / "tokenizer.model").write_bytes(model)
    (folder / "added_tokens.json").write_text(json.dumps({IMAGE_CONTEXT: 900, IMAGE_START: 901, IMAGE_END: 902}))
    described = {"903": {"content": TURN_START}, "904": {"content": TURN_END}, "900": {"content": IMAGE_CONTEXT}}
    (folder / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": described}))


WRITERS = {"tokenizer.json": write_json, "tokenizer.model": write_sentencepiece}


@pytest.fixture(params=sorted(WRITERS))
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    WRITERS[request.param](tmp_path)
    return tmp_path


@pytest.fixture
def tokenizer(folder: Path) -> Tokenizer:
    return load_tokenizer(folder)


def test_text_comes_back_from_its_ids(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode(tokenizer.encode(TEXT)) == TEXT
    assert tokenizer.encode("") == []


def test_each_special_token_is_one_id_and_no_beginning_is_added(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(TEXT)
    for token in ADDED:
        assert ids.count(tokenizer.id_of(token)) == 1
    assert tokenizer.bos_id is not None
    assert tokenizer.bos_id not in ids


def test_a_token_that_is_not_there_is_named(tokenizer: Tokenizer) -> None:
    with pytest.raises(InputError, match="<quad>"):
        tokenizer.id_of("<quad>")


def test_conversations_are_encoded_turn_by_turn(tokenizer: Tokenizer) -> None:
    written = PromptFormat(system="user", image_size=8, patch_size=4)
    conversation = encode_conversation(
        ["which?", "bag", "is it?", "it is"], [3], tokenizer=tokenizer, prompt_format=written
    )
    assert conversation.llm_ids[0] == tokenizer.bos_id
    assert (conversation.llm_ids == tokenizer.id_of(IMAGE_CONTEXT)).sum() == 3
    answers = [tokenizer.decode(conversation.labels[start:stop].tolist()) for start, stop in conversation.answers]
    assert answers == [f"bag{TURN_END}", f"it is{TURN_END}"]
    assert tokenizer.decode(conversation.llm_ids[1:].tolist()) == (
        f"{TURN_START}system\nuser{TURN_END}"
        f"{TURN_START}user\n{IMAGE_START}{IMAGE_CONTEXT * 3}{IMAGE_END}\nwhich?{TURN_END}"
        f"{TURN_START}assistant\nbag{TURN_END}{TURN_START}user\nis it?{TURN_END}{TURN_START}assistant\nit is{TURN_END}"
    )


def test_a_file_may_say_that_there_is_no_beginning(tmp_path: Path) -> None:
    write_sentencepiece(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"add_bos_token": false}')
    assert load_tokenizer(tmp_path).bos_id is None


def test_a_sentencepiece_model_without_a_beginning_puts_none_in_front(tmp_path: Path) -> None:
    model = sentencepiece_model("which bag is it?", vocab_size=290, bos_id=-1, eos_id=1, unk_id=0)
    (tmp_path / "tokenizer.model").write_bytes(model)
    assert load_tokenizer(tmp_path).bos_id is None


CUT_OR_FILLED = {
    "truncation": {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0},
    "padding": {
        "strategy": {"Fixed": 99},
        "direction": "Left",
        "pad_to_multiple_of": None,
        "pad_id": 5,
        "pad_type_id": 0,
        "pad_token": "!",
    },
}


@pytest.mark.parametrize("setting", CUT_OR_FILLED)
def test_what_a_file_says_of_batches_neither_cuts_nor_fills_texts(setting: str, tmp_path: Path) -> None:
    write_json(tmp_path)
    plain = load_tokenizer(tmp_path)
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {setting: CUT_OR_FILLED[setting]}))
    tokenizer = load_tokenizer(tmp_path)
    assert (tokenizer.encode(TEXT), tokenizer.bos_id) == (plain.encode(TEXT), plain.bos_id)
    assert isinstance(tokenizer, Fingerprinted)
    assert isinstance(plain, Fingerprinted)
    # ids on disk that were made of texts cut short are not taken for these
    assert tokenizer.digest == plain.digest


@pytest.mark.parametrize(("single", "opens"), [("$A </s>", False), ("<s> $A </s>", True), ("$A", False)])
@pytest.mark.parametrize("model", ["bytes", "words"])
def test_only_what_stands_in_front_of_a_text_opens_it(single: str, opens: bool, model: str, tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    if model == "words":
        made = tokenizers.Tokenizer(tokenizers.models.WordLevel({"<s>": 0, "</s>": 1, "bag": 2}, "[UNK]"))
    else:
        write_json(tmp_path)
        made = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
        made.add_special_tokens(["</s>"])
    ids = [(token, made.token_to_id(token)) for token in ("<s>", "</s>")]
    made.post_processor = tokenizers.processors.TemplateProcessing(single=single, special_tokens=ids)
    made.save(str(tmp_path / "tokenizer.json"))
    assert load_tokenizer(tmp_path).bos_id == (made.token_to_id("<s>") if opens else None)


def test_the_files_say_what_ends_a_text(folder: Path) -> None:
    is_json = (folder / "tokenizer.json").exists()
    # sentencepiece has an end in its model, the library tokenizers a name beside it
    before = load_tokenizer(folder)
    assert before.decode([before.eos_id] if before.eos_id is not None else []) == ""
    assert (before.eos_id is None) == is_json
    if is_json:
        (folder / "special_tokens_map.json").write_text(json.dumps({"eos_token": {"content": TURN_END}}))
        tokenizer = load_tokenizer(folder)
        assert tokenizer.eos_id == tokenizer.id_of(TURN_END)


def test_a_digest_is_that_of_the_vocabulary(folder: Path) -> None:
    first, again = load_tokenizer(folder), load_tokenizer(folder)
    assert isinstance(first, Fingerprinted)
    assert isinstance(again, Fingerprinted)
    other = WordTokenizer(["bag"])
    assert first.digest == again.digest != other.digest
    assert WordTokenizer(["shoe"]).digest != other.digest


@pytest.mark.parametrize("content", [b"", b"{", b"\0\1\2"])
def test_a_damaged_file_is_refused_by_name(folder: Path, content: bytes) -> None:
    (name,) = [name for name in WRITERS if (folder / name).exists()]
    (folder / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=name) as caught:
        load_tokenizer(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["added_tokens.json", "tokenizer_config.json"])
@pytest.mark.parametrize("content", ["{", "[]", '{"added_tokens_decoder": 3, "<img>": []}'])
def test_damaged_lists_of_added_tokens_are_refused_by_name(name: str, content: str, tmp_path: Path) -> None:
    write_sentencepiece(tmp_path)
    (tmp_path / name).write_text(content)
    with pytest.raises(CheckpointError, match=name):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(("name", "library"), [("tokenizer.json", "tokenizers"), ("tokenizer.model", "sentencepiece")])
def test_a_missing_library_is_named(name: str, library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    (tmp_path / name).write_text("")
    with pytest.raises(BackendError, match=f"needs {library}; pip install {library}"):
        load_tokenizer(tmp_path)


@pytest.mark.filterwarnings("ignore")
def test_a_gguf_file_holds_its_own_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "beside").mkdir()
    write_gguf(tmp_path / "beside" / "tiny.gguf")
    # of another model; transformers would read them instead
    (tmp_path / "beside" / "config.json").write_text('{"model_type": "gpt2"}')
    (tmp_path / "beside" / "tokenizer.json").write_text("{}")
    write_json(tmp_path)
    tokenizer, expected = load_tokenizer(tmp_path / "beside" / "tiny.gguf"), load_tokenizer(tmp_path)
    assert tokenizer.encode(TEXT) == expected.encode(TEXT)
    assert tokenizer.decode(tokenizer.encode(TEXT)) == TEXT
    assert tokenizer.id_of(TURN_END) == expected.id_of(TURN_END)
    # as a student's folder carries it
    assert isinstance(tokenizer, GgufTokenizer)
    (tmp_path / "student").mkdir()
    tokenizer.write(tmp_path / "student")
    carried = load_tokenizer(tmp_path / "student")
    assert carried.encode(TEXT) == expected.encode(TEXT)
    assert carried.id_of(TURN_END) == expected.id_of(TURN_END)
    for each in (tokenizer, carried):
        assert each.chat is not None
        assert each.chat.render([{"role": "user", "content": "bag"}], is_open=True) == f"<s>bag{TURN_END} it"


@pytest.mark.filterwarnings("ignore")
def test_answers_end_where_a_gguf_file_says(tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf", end="w")
    folder = ModelFolder(tmp_path / "tiny.gguf")
    tokenizer = folder.tokenizer()
    assert folder.stop_ids(tokenizer) == {tokenizer.id_of(token) for token in ("w", TURN_END)}


def test_a_token_behind_a_gap_may_be_chosen(tmp_path: Path) -> None:
    write_json(tmp_path)
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    content["model"]["vocab"]["<|end|>"] = 310
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.id_of("<|end|>") == 310
    assert len(tokenizer) == 311


@pytest.mark.filterwarnings("ignore")
def test_a_gguf_file_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    for name in ("transformers", "accelerate", "gguf"):
        pytest.importorskip(name, reason=f"{name} is not installed")
    with pytest.raises(CheckpointError, match=r"absent\.gguf is missing"):
        load_tokenizer(tmp_path / "absent.gguf")
    (tmp_path / "bad.gguf").write_bytes(b"no such thing")
    with pytest.raises(CheckpointError, match=r"bad\.gguf cannot be read as GGUF: ") as refusal:
        load_tokenizer(tmp_path / "bad.gguf")
    assert "\n" not in str(refusal.value)
