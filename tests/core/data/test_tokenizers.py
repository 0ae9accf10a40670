"""Words become ids and come back; a vocabulary that is damaged, or a word that is not in it, is refused."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.core.data.prompt_format import IMAGE_CONTEXT, IMAGE_END, IMAGE_START, TURN_END, TURN_START
from lab.core.data.tokenizers import PADDING, SPECIAL_TOKENS, WordTokenizer, load_tokenizer
from lab.core.errors import CheckpointError, InputError

WORDS = ("\n", ".", ",", "?", ":", "user", "Which", "bag", "T-shirt", "it's", "8")


def test_special_tokens_come_first_and_the_padding_is_zero() -> None:
    tokenizer = WordTokenizer(WORDS)
    assert [tokenizer.id_of(token) for token in SPECIAL_TOKENS] == list(range(len(SPECIAL_TOKENS)))
    assert tokenizer.id_of(PADDING) == 0
    assert len(tokenizer) == len(SPECIAL_TOKENS) + len(WORDS)


def test_text_is_split_into_words_marks_and_special_tokens() -> None:
    tokenizer = WordTokenizer(WORDS)
    picture = f"{IMAGE_START}{IMAGE_CONTEXT}{IMAGE_CONTEXT}{IMAGE_END}"
    text = f"{TURN_START}user\nWhich bag, T-shirt: {picture}\nit's 8?{TURN_END}"
    pieces = [tokenizer.tokens[index] for index in tokenizer.encode(text)]
    assert pieces == [
        *(TURN_START, "user", "\n", "Which", "bag", ",", "T-shirt", ":", IMAGE_START, IMAGE_CONTEXT, IMAGE_CONTEXT),
        *(IMAGE_END, "\n", "it's", "8", "?", TURN_END),
    ]


@given(st.lists(st.integers(0, len(SPECIAL_TOKENS) + len(WORDS) - 1)))
def test_ids_come_back_from_their_text(ids: list[int]) -> None:
    tokenizer = WordTokenizer(WORDS)
    assert tokenizer.encode(tokenizer.decode(ids)) == ids


def test_text_comes_back_from_its_ids() -> None:
    tokenizer = WordTokenizer(WORDS)
    text = f"{TURN_START}user\nWhich bag, T-shirt?\nit's 8.{TURN_END}{TURN_START}user\nbag{TURN_END}"
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_word_that_is_not_in_the_list_is_named() -> None:
    with pytest.raises(InputError, match="'hat'"):
        WordTokenizer(WORDS).encode("Which hat?")
    with pytest.raises(InputError, match="'<'"):
        WordTokenizer(WORDS).encode("bag < bag")
    with pytest.raises(InputError, match="'hat'"):
        WordTokenizer(WORDS).id_of("hat")


@pytest.mark.parametrize("index", [-1, len(SPECIAL_TOKENS) + len(WORDS)])
def test_an_id_that_is_none_is_named(index: int) -> None:
    with pytest.raises(InputError, match=str(index)):
        WordTokenizer(WORDS).decode([index])


@pytest.mark.parametrize(
    ("words", "match"), [(("bag", "bag"), "twice"), (("a bag",), "not a single"), (("",), "not a single")]
)
def test_a_list_that_is_none_of_single_words_is_refused(words: tuple[str, ...], match: str) -> None:
    with pytest.raises(InputError, match=match):
        WordTokenizer(words)


def test_the_vocabulary_comes_back_from_the_disk(tmp_path: Path) -> None:
    WordTokenizer(WORDS).write(tmp_path / "teacher")
    found = load_tokenizer(tmp_path / "teacher")
    assert isinstance(found, WordTokenizer)
    assert found.tokens == WordTokenizer(WORDS).tokens


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"words": 3}', '{"words": ["a b"]}', '{"words": ["a", "a"]}']
)
def test_a_damaged_vocabulary_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "vocabulary.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"vocabulary\.json"):
        load_tokenizer(tmp_path)


def test_a_missing_vocabulary_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"vocabulary\.json cannot be read \(No such file"):
        WordTokenizer.read(tmp_path)


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"none of vocabulary\.json"):
        load_tokenizer(tmp_path)
