"""A sample is a function of seed and index, says what its pictures show, and keeps the splits apart."""

import numpy as np
import pytest
from jaxtyping import UInt8
from numpy import ndarray

from lab.core.data.prompt_format import IMAGE_CONTEXT, PromptFormat
from lab.core.data.sample import Sample
from lab.core.errors import ConfigError, InputError
from lab.experiments.distill.tasks.named_digits import (
    ANSWERS,
    NAMES,
    NamedDigits,
    NamedDigitsConfig,
    named_digits_chance,
    named_digits_tokenizer,
)
from lab.experiments.distill.tasks.pictures import DIGITS, load_pictures

TOKENIZER = named_digits_tokenizer()
FORMAT = PromptFormat(image_size=8, patch_size=4, shuffle_factor=1)


def task(split: str = "train", *, seed: int = 0, config: NamedDigitsConfig | None = None) -> NamedDigits:
    return NamedDigits(config or NamedDigitsConfig(), split=split, seed=seed, tokenizer=TOKENIZER, prompt_format=FORMAT)


def words(sample: Sample) -> list[str]:
    return [TOKENIZER.tokens[index] for index in sample.conversation.llm_ids]


def values(split: str, tiles: UInt8[ndarray, "N S S 3"]) -> list[int]:
    """Which digit each picture shows, by looking it up."""
    by_word = load_pictures(split, garments=None, digits=None).by_word
    return [
        next(value for value, word in enumerate(DIGITS) if (by_word[word] == tile[..., 0]).all(axis=(1, 2)).any())
        for tile in tiles
    ]


def test_a_sample_depends_on_seed_and_index_alone() -> None:
    first, again, other = task(), task(), task(seed=1)
    for index in (7, 0, 3):
        a, b = first[index], again[index]
        np.testing.assert_array_equal(a.tiles, b.tiles)
        np.testing.assert_array_equal(a.conversation.llm_ids, b.conversation.llm_ids)
        assert words(a) != words(other[index])


@pytest.mark.parametrize(("num_pictures", "num_questions"), [(6, 6), (1, 1), (16, 2)])
def test_a_sequence_is_pictures_with_names_and_questions_about_them(num_pictures: int, num_questions: int) -> None:
    config = NamedDigitsConfig(num_pictures=num_pictures, num_questions=num_questions)
    sample = task(config=config)[0]
    text = words(sample)
    assert len(text) == 1 + 5 * num_pictures + 3 * num_questions
    pictures, questions = text[1 : 1 + 5 * num_pictures], text[1 + 5 * num_pictures :]
    names = pictures[::5]
    assert len(set(names)) == num_pictures
    assert pictures == [token for name in names for token in (name, *[IMAGE_CONTEXT] * 4)]
    assert sample.kinds == tuple(questions[::3])
    assert set(questions[1::3]) <= set(names)
    assert sample.tiles.shape == (num_pictures, 8, 8, 3)


@pytest.mark.parametrize("split", ["train", "test"])
def test_answers_are_right_and_alone_are_labels(split: str) -> None:
    source = task(split)
    for index in range(20):
        sample = source[index]
        text, labels = words(sample), sample.conversation.labels
        shown = dict(zip(text[1:31:5], values(split, sample.tiles), strict=True))
        for kind, (start, stop) in zip(sample.kinds, sample.conversation.answers, strict=True):
            assert stop == start + 1
            assert text[start - 2] == kind
            assert text[start] == ANSWERS[kind][shown[text[start - 1]]]
            assert labels[start] == sample.conversation.llm_ids[start]
        assert (labels >= 0).sum() == len(sample.kinds)


def test_every_patch_shows_the_name_of_its_picture() -> None:
    sample = task()[0]
    for name, tile in zip(words(sample)[1:31:5], sample.tiles, strict=True):
        patches = tile[..., 1].reshape(2, 4, 2, 4).transpose(0, 2, 1, 3).reshape(4, 16)
        assert (patches.argmax(axis=1) == NAMES.index(name)).all()
        assert ((patches > 0).sum(axis=1) == 1).all()


def test_the_splits_share_no_picture_and_no_questions() -> None:
    train, test = task("train"), task("test")
    seen = {tile[..., 0].tobytes() for index in range(200) for tile in train[index].tiles}
    held_out = {tile[..., 0].tobytes() for index in range(200) for tile in test[index].tiles}
    assert not seen & held_out
    assert words(train[0]) != words(test[0])


def test_chance_is_that_of_the_likeliest_answer() -> None:
    assert named_digits_chance() == {"digit": 0.1, "parity": 0.5, "half": 0.5}


def test_bad_input_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="num_pictures=17 must lie in"):
        NamedDigitsConfig(num_pictures=17)
    with pytest.raises(ConfigError, match="num_questions=0 must be 1"):
        NamedDigitsConfig(num_questions=0)
    with pytest.raises(InputError, match="index=-1 must not be negative"):
        task()[-1]
    with pytest.raises(ConfigError, match=r"vision\.image_size=28, patch_size=7.*teacher=named_digits"):
        NamedDigits(
            NamedDigitsConfig(),
            split="train",
            seed=0,
            tokenizer=TOKENIZER,
            prompt_format=PromptFormat(image_size=28, patch_size=7),
        )
