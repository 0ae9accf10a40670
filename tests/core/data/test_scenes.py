"""Every answer is true of its scene, answers are evenly spread, and what was said does not give later ones away."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.core.data.pictures import DIGITS, GARMENTS
from lab.core.data.scenes import NAMES, QUESTIONS, WORDS, Draws, Question, Scene, chance_by_kind, draw_scene
from lab.core.data.tokenizers import split_words


def scene(seed: int, *, num_singles: int = 4, num_pairs: int = 1, num_questions: int = 4) -> Scene:
    draws = Draws(np.random.default_rng(seed))
    return draw_scene(draws, num_singles=num_singles, num_pairs=num_pairs, num_questions=num_questions)


def subjects(question: Question) -> list[str]:
    """Names of the pictures that a question is about."""
    return [word for word in split_words(question.text) if word in NAMES]


def answer_of(question: Question, scene: Scene) -> str:
    """The answer, worked out from what the text says."""
    shown = dict(zip(scene.names, scene.shown, strict=True))
    words = split_words(question.text)
    things = [shown[name] for name in subjects(question)]
    match question.kind:
        case "where":
            (found,) = [name for name in scene.names if words[-2] in shown[name]]
            return found
        case "count":
            return DIGITS[sum(words[-2] in things for things in scene.shown)]
        case "garment" | "digit":
            return things[0][0]
        case "parity":
            return ("even", "odd")[DIGITS.index(things[0][0]) % 2]
        case "same":
            return "same" if things[0] == things[1] else "different"
        case "side":
            return things[0]["right" in words]
        case _:
            return " ".join(things[0])


@given(
    seed=st.integers(0, 2**32),
    num_singles=st.integers(2, 6),
    num_pairs=st.integers(1, 3),
    num_questions=st.integers(1, len(QUESTIONS)),
)
def test_every_answer_is_true(seed: int, num_singles: int, num_pairs: int, num_questions: int) -> None:
    drawn = scene(seed, num_singles=num_singles, num_pairs=num_pairs, num_questions=num_questions)
    assert len(set(drawn.names)) == num_singles + num_pairs
    assert sorted(map(len, drawn.shown)) == [1] * num_singles + [2] * num_pairs
    assert {word for things in drawn.shown for word in things} <= set(WORDS)
    assert 1 <= len(drawn.questions) <= num_questions
    for question in drawn.questions:
        assert question.answer == answer_of(question, drawn)
        for kind, words in (("garment", tuple(GARMENTS.values())), ("digit", DIGITS), ("parity", ("even", "odd"))):
            assert question.kind != kind or question.answer in words


@given(seed=st.integers(0, 2**32))
def test_no_picture_is_asked_about_twice_and_each_type_comes_once(seed: int) -> None:
    drawn = scene(seed, num_questions=8)
    asked = [name for question in drawn.questions for name in subjects(question)]
    asked += [question.answer for question in drawn.questions if question.kind == "where"]
    assert len(asked) == len(set(asked))
    kinds = [question.kind for question in drawn.questions]
    assert len(kinds) == len(set(kinds))
    assert kinds == sorted(kinds, key=lambda kind: {"where": 0, "count": 1}.get(kind, 2))


@pytest.fixture(scope="module")
def many() -> list[Scene]:
    return [scene(seed) for seed in range(8000)]


def test_most_prompts_have_all_their_questions_and_every_type_is_frequent(many: list[Scene]) -> None:
    assert np.mean([len(drawn.questions) == 4 for drawn in many]) > 0.9
    kinds = Counter(question.kind for drawn in many for question in drawn.questions)
    assert set(kinds) == set(QUESTIONS)
    assert min(kinds.values()) > 0.3 * len(many)


@pytest.mark.parametrize("kind", QUESTIONS)
def test_within_a_type_all_answers_are_equally_likely(kind: str, many: list[Scene]) -> None:
    answers: Counter[str] = Counter()
    for drawn in many:
        for question in drawn.questions:
            if question.kind == kind:
                # where: the place of the picture, since names are drawn anew; both: what is on the left
                place = str(drawn.names.index(question.answer)) if kind == "where" else question.answer.split()[0]
                answers[place] += 1
    chance = chance_by_kind(num_pictures=5)[kind]
    choices = round(1 / chance) if kind != "both" else len(WORDS)
    total = answers.total()
    assert len(answers) == choices
    # the largest of a few standard normal deviates
    error = 4.5 * np.sqrt(total / choices * (1 - 1 / choices))
    assert all(abs(count - total / choices) < error for count in answers.values()), answers


def test_chance_is_that_of_a_guess_among_the_answers() -> None:
    chance = chance_by_kind(num_pictures=5)
    assert set(chance) == set(QUESTIONS)
    assert chance["where"] == 1 / 5
    assert chance["both"] == pytest.approx(chance["side"] ** 2)


def test_the_name_stands_last_in_the_question() -> None:
    for seed in range(50):
        for question in scene(seed).questions:
            last = split_words(question.text)[-2:]
            assert last[1] == "?"
            assert last[0] in (WORDS if question.kind in ("where", "count") else NAMES)


def test_draws_are_even_and_in_range() -> None:
    draws = Draws(np.random.default_rng(0))
    counts = Counter(draws.below(7) for _ in range(7000))
    assert sorted(counts) == list(range(7))
    # binomial, standard error 29
    assert all(abs(count - 1000) < 150 for count in counts.values())
    assert sorted(draws.sample(range(5), 5)) == list(range(5))
    assert len(set(draws.sample("abcdef", 3))) == 3
