"""Plain text: every token asked about once, splits that share no document, and what cannot be read named."""

from pathlib import Path

import numpy as np
import pytest

from lab.core.data.batch import count_right, to_tensors
from lab.core.data.chat_template import IGNORED
from lab.core.data.sample import is_held_out, pad
from lab.core.data.stream import Stream
from lab.core.data.texts import TextConfig, Texts
from lab.core.data.tokenizers import WordTokenizer
from lab.core.errors import ConfigError, InputError

LETTERS = [chr(ord("a") + index) for index in range(26)]
TOKENIZER = WordTokenizer(["\n", *LETTERS])


class Bytes:
    """A tokenizer of any text."""

    bos_id = None

    def __len__(self) -> int:
        return 256

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def decode(self, ids: object) -> str:
        return bytes(ids).decode(errors="replace")  # type: ignore[call-overload]

    def id_of(self, token: str) -> int:
        raise InputError(token)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twenty-six documents of eleven words and two line breaks each, in two folders, and a file that is no text."""
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
    with pytest.raises(InputError, match="no UTF-8 text"):
        texts(empty, "train")
