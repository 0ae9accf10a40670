"""Plain text: every token asked about once, splits that share no document, and what cannot be read named."""

import errno
import json
import pickle
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lab.core.data import token_cache
from lab.core.data.batch import count_right, to_tensors
from lab.core.data.chat_template import IGNORED
from lab.core.data.sample import is_held_out, pad
from lab.core.data.stream import Stream
from lab.core.data.texts import SplitBy, TextConfig, Texts
from lab.core.data.tokenizers import WordTokenizer
from lab.core.errors import ConfigError, InputError
from lab.core.tokenizer import Tokenizer

LETTERS = [chr(ord("a") + index) for index in range(26)]
TOKENIZER = WordTokenizer(["\n", *LETTERS])


class Bytes:
    """A tokenizer of any text."""

    bos_id = None
    eos_id: int | None = None

    def __len__(self) -> int:
        return 256

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def decode(self, ids: object) -> str:
        return bytes(ids).decode(errors="replace")  # type: ignore[call-overload]

    def id_of(self, token: str) -> int:
        raise InputError(token)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of token ids."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder / "ssm-lab" / "tokens"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twenty-six documents of eleven words and two line breaks each, in two folders, and a file that is not text."""
    for letter in LETTERS:
        path = tmp_path / ("early" if letter < "n" else "late") / f"{letter}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_text(" ".join([letter] * 11))
    (tmp_path / "picture.png").write_bytes(b"\xff\xfe")
    return tmp_path


def texts(folder: Path, split: str, **keys: object) -> Texts:
    config = TextConfig(folder=folder, **{"piece_length": 5, "held_out_share": 0.3, **keys})  # type: ignore[arg-type]
    return Texts(config, split=split, tokenizer=TOKENIZER, image_size=28)


def joined(found: Texts) -> str:
    return TOKENIZER.decode([int(i) for piece in range(len(found)) for i in found[piece].conversation.llm_ids])


def test_pieces_are_the_documents_of_a_split_one_behind_the_other(folder: Path) -> None:
    for split in ("train", "test"):
        documents = [" ".join([letter] * 11) for letter in LETTERS]
        mine = [text for text in documents if is_held_out(text.encode(), 0.3) == (split == "test")]
        whole = [index for text in mine for index in TOKENIZER.encode(f"{text}\n\n")]
        found = texts(folder, split)
        assert len(found) == len(whole) // 5
        ids = np.concatenate([found[piece].conversation.llm_ids for piece in range(len(found))])
        np.testing.assert_array_equal(ids, whole[: len(ids)])


def test_no_document_is_in_both_splits_and_none_is_lost(folder: Path) -> None:
    train, test = (set(joined(texts(folder, split))) & set(LETTERS) for split in ("train", "test"))
    assert not train & test
    assert train | test == set(LETTERS)
    assert 2 <= len(test) <= 14


def test_every_token_but_the_first_is_an_answer_of_its_own(folder: Path) -> None:
    sample = texts(folder, "train")[3]
    conversation = sample.conversation
    assert conversation.answers == ((1, 2), (2, 3), (3, 4), (4, 5))
    assert conversation.labels[0] == IGNORED
    np.testing.assert_array_equal(conversation.labels[1:], conversation.llm_ids[1:])
    assert sample.tiles.shape == (0, 28, 28, 3)
    assert set(sample.kinds) == {"next token"}


def test_what_is_counted_is_the_share_of_next_tokens(folder: Path) -> None:
    batch = Stream(texts(folder, "train"), batch_size=4, max_length=64, seed=0).next_batch()
    predicted = batch.llm_ids.roll(-1, dims=1)
    assert count_right(predicted, batch) == {"next token": (16, 16)}
    predicted[0, 2] += 1
    assert count_right(predicted, batch) == {"next token": (15, 16)}


def test_labels_are_those_of_the_pieces(folder: Path) -> None:
    found = texts(folder, "test")
    batch = to_tensors(pad([found[0], found[1]]))
    assert batch.llm_ids.shape == (2, 5)
    assert (batch.labels[:, 1:] == batch.llm_ids[:, 1:]).all()
    assert batch.pixel_values.shape == (0, 3, 28, 28)


@pytest.mark.slow
def test_the_documentation_of_python_is_enough_for_both_splits() -> None:
    for split, least in (("train", 1000), ("test", 50)):
        found = Texts(TextConfig(), split=split, tokenizer=Bytes(), image_size=28)
        assert len(found) >= least
    words = Bytes().decode([int(i) for piece in range(200) for i in found[piece % len(found)].conversation.llm_ids])
    assert " the " in words


def test_what_cannot_be_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="piece_length=1"):
        TextConfig(piece_length=1)
    with pytest.raises(InputError, match="split='validation'"):
        texts(folder, "validation")
    with pytest.raises(InputError, match="piece_length=5000"):
        texts(folder, "train", piece_length=5000)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(InputError, match="holds no file"):
        texts(empty, "train")
    (empty / "latin.txt").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(InputError, match=r"latin\.txt is not UTF-8 text"):
        texts(empty, "train")
    (empty / "latin.txt").unlink()
    for name, content, says in (
        ("a.jsonl", '{"text": "a"}\n{"text"', "line 2: is not valid JSON"),
        ("a.jsonl", '{"text": "a"}\n{"body": "a"}', "line 2: must be an object with a text"),
        ("a.jsonl", '{"text": "\\ud800"}', "line 1: its text has half of a character"),
        ("a.parquet", "word", "is not a Parquet file"),
    ):
        (empty / name).write_text(content)
        with pytest.raises(InputError, match=says):
            texts(empty, "train")
        (empty / name).unlink()


def test_one_file_is_split_by_position(tmp_path: Path) -> None:
    words = [LETTERS[number * number % 26] for number in range(403)]
    (tmp_path / "one.txt").write_text(" ".join(words))
    expected = TOKENIZER.encode(" ".join(words) + "\n\n")
    pieces = []
    for split, number in (("train", 57), ("test", 24)):
        found = texts(tmp_path / "one.txt", split)
        assert len(found) == number
        assert len(texts(tmp_path, split, split_by=SplitBy.position)) == number
        pieces += [found[index].conversation.llm_ids for index in range(number)]
        with pytest.raises(IndexError):
            found[number]
    np.testing.assert_array_equal(np.concatenate(pieces), expected)
    is_test = is_held_out(" ".join(words).encode(), 0.3)
    with pytest.raises(InputError, match="less than one piece"):
        texts(tmp_path, "train" if is_test else "test", split_by=SplitBy.document)


def test_lines_and_tables_hold_the_same_documents_as_files(folder: Path, tmp_path: Path) -> None:
    documents = [" ".join([letter] * 11) for letter in LETTERS]
    (tmp_path / "x").mkdir()
    lines, table = tmp_path / "x" / "a.jsonl", tmp_path / "x" / "a.parquet"
    lines.write_text("\n".join(json.dumps({"text": text, "id": 1}) for text in documents) + "\n\n")
    pq.write_table(pa.table({"text": documents}), table)
    for split in ("train", "test"):
        expected = joined(texts(folder / "early", split)) + joined(texts(folder / "late", split))
        for path in (lines, table):
            assert set(joined(texts(path, split))) == set(expected)
        assert joined(texts(lines, split)) == joined(texts(table, split))


class Llama(Bytes):
    """Begins sequences with 256 and ends texts with 257."""

    bos_id, eos_id = 256, 257
    digest = "of llama"
    calls = 0

    def encode(self, text: str) -> list[int]:
        type(self).calls += 1
        return super().encode(text)


def test_sequences_begin_and_texts_end_as_the_tokenizer_has_it(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("abcde")
    (tmp_path / "b.txt").write_text("fgh")
    config = TextConfig(folder=tmp_path, piece_length=4, held_out_share=0.3, split_by=SplitBy.position)
    train, test = (Texts(config, split=split, tokenizer=Llama(), image_size=28) for split in ("train", "test"))
    pieces = [each[index].conversation.llm_ids.tolist() for each in (train, test) for index in range(len(each))]
    assert pieces == [[256, *b"abc"], [256, *b"de", 257], [256, *b"fgh"]]
    assert (train[0].conversation.labels[1:] == train[0].conversation.llm_ids[1:]).all()


def test_a_text_is_tokenised_once_for_all_processes(tmp_path: Path, cache: Path) -> None:
    for number in range(30):
        (tmp_path / f"{number}.txt").write_text(f"text {number}" * 20)

    def read(share: float = 0.3) -> list[bytes]:
        config = TextConfig(folder=tmp_path, held_out_share=share)
        found = Texts(config, split="train", tokenizer=Llama(), image_size=28)
        copy = pickle.loads(pickle.dumps(found))
        assert len(pickle.dumps(found)) < 2000
        return [copy[index].conversation.llm_ids.tobytes() for index in range(len(copy))]

    Llama.calls = 0
    first = read()
    assert Llama.calls == 30
    token_cache._mapped.cache_clear()
    assert read() == first
    read(0.2)
    assert Llama.calls == 30
    (kept,) = (path for path in cache.iterdir() if path.is_dir())
    assert {path.name for path in kept.iterdir()} == {"ids.npy", "starts.npy", "hashes.npy", "SHA256SUMS"}
    assert np.load(kept / "ids.npy").dtype == np.int32
    # another text, another cut
    (tmp_path / "3.txt").write_text("other" * 30)
    assert read() != first
    assert Llama.calls == 60
    # a damaged file
    for path in cache.glob("*/ids.npy"):
        path.write_bytes(path.read_bytes()[:-8])
    token_cache._mapped.cache_clear()
    read()
    assert Llama.calls == 90
    # a bit that keeps it readable
    for path in cache.glob("*/ids.npy"):
        path.write_bytes(path.read_bytes()[:-8] + b"\1" + path.read_bytes()[-7:])
    token_cache._mapped.cache_clear()
    read()
    assert Llama.calls == 120


def test_two_that_come_at_once_tokenise_once(tmp_path: Path) -> None:
    class Slow(Llama):
        calls = 0

        def encode(self, text: str) -> list[int]:
            time.sleep(0.02)
            return super().encode(text)

    for number in range(5):
        (tmp_path / f"{number}.txt").write_text(f"text {number}" * 60)
    config = TextConfig(folder=tmp_path, held_out_share=0.3)
    # a lock of the kernel is of the open file, not of the process
    with ThreadPoolExecutor(3) as pool:
        lengths = list(pool.map(lambda _: len(Texts(config, split="train", tokenizer=Slow(), image_size=8)), range(3)))
    assert len(set(lengths)) == 1
    assert Slow.calls == 5


def test_where_nothing_can_be_kept_ids_are_in_memory(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = joined(texts(folder, "train"))
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")
    assert joined(texts(folder, "train")) == expected
    assert "token ids are kept in memory" in capsys.readouterr().err


@pytest.mark.parametrize("fault", ["full", "changed"])
def test_of_a_text_that_cannot_be_written_nothing_is_lost(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fault: str
) -> None:
    for number in range(30):
        (tmp_path / f"{number}.txt").write_text(f"text {number}" * 20)
    config = TextConfig(folder=tmp_path, held_out_share=0.3)
    encoded = token_cache._encoded

    def full(documents: Iterable[str], tokenizer: Tokenizer) -> Iterator[tuple[np.ndarray, int]]:
        for number, each in enumerate(encoded(documents, tokenizer)):
            if number == 20:
                monkeypatch.setattr(token_cache, "_encoded", encoded)
                raise OSError(errno.ENOSPC, "No space left on device")
            yield each

    def lengths() -> list[int]:
        return [len(Texts(config, split=split, tokenizer=Llama(), image_size=28)) for split in ("train", "test")]

    if fault == "full":
        monkeypatch.setattr(token_cache, "_encoded", full)
    else:
        monkeypatch.setattr(token_cache, "_read", lambda folder: None)
    found = lengths()
    assert capsys.readouterr().err.count("token ids are kept in memory") == 1
    monkeypatch.undo()
    token_cache._held.clear()
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache / "other"))
    assert lengths() == found
    assert (cache / "other").exists()


def test_documents_of_very_different_lengths_are_split_by_position(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    candidates = (" b" * 2000 + " c" * number for number in range(999))
    large = next(text for text in candidates if is_held_out(text.encode(), 0.1))
    (tmp_path / "large.txt").write_text(large)
    for letter in LETTERS:
        (tmp_path / f"{letter}.txt").write_text(f"{letter} " * 20)

    def shares(**keys: object) -> float:
        train, test = (len(texts(tmp_path, split, held_out_share=0.1, **keys)) for split in ("train", "test"))
        return test / (train + test)

    assert shares() == pytest.approx(0.1, abs=0.01)
    said = capsys.readouterr().err
    assert said.count("the last 10.0% are held out, since whole documents would be") == 1
    assert shares(split_by=SplitBy.document) > 0.7
    assert "held_out_share=0.1; split_by=position holds out the end of the text" in capsys.readouterr().err
    assert shares(split_by=SplitBy.position) == pytest.approx(0.1, abs=0.01)
    # what is only logged goes to whatever a test before has set up
    assert "lab: " not in capsys.readouterr().err
