"""Every answer is true of its scene, answers are evenly spread, and what was said does not give later ones away."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.core.data.tokenizers import split_words
from lab.experiments.distill.tasks.pictures import DIGITS
from lab.experiments.distill.tasks.scenes import (
    COLOURS,
    QUESTIONS,
    WORDS,
    Draws,
    Question,
    Scene,
    chance_by_kind,
    draw_lesson,
    draw_scene,
)


def scene(seed: int, *, max_pictures: int = 5, pair_share: float = 0.2, num_questions: int = 4) -> Scene:
    draws = Draws(np.random.default_rng(seed))
    return draw_scene(draws, max_pictures=max_pictures, pair_share=pair_share, num_questions=num_questions)


def subjects(question: Question) -> list[str]:
    """Frames of the pictures that a question is about."""
    return [word for word in split_words(question.text) if word in COLOURS]


def answer_of(question: Question, scene: Scene) -> str:
    """The answer, worked out from what the text says."""
    shown = dict(zip(scene.frames, scene.shown, strict=True))
    about = split_words(question.text)[-2]
    things = [shown[frame] for frame in subjects(question)]
    match question.kind:
        case "where":
            (found,) = [frame for frame in scene.frames if about in shown[frame]]
            return f"{about} {found}"
        case "count":
            return f"{about} {DIGITS[sum(about in things for things in scene.shown)]}"
        case "parity":
            return f"{about} {things[0][0]} {('even', 'odd')[DIGITS.index(things[0][0]) % 2]}"
        case "same":
            verdict = "same" if things[0] == things[1] else "different"
            return " ".join(word for frame in subjects(question) for word in (frame, *shown[frame])) + f" {verdict}"
        case _:
            return " ".join((about, *things[0]))


@given(
    seed=st.integers(0, 2**32),
    max_pictures=st.integers(1, len(COLOURS)),
    pair_share=st.floats(0, 1),
    num_questions=st.integers(1, len(QUESTIONS)),
)
def test_every_answer_is_true(seed: int, max_pictures: int, pair_share: float, num_questions: int) -> None:
    drawn = scene(seed, max_pictures=max_pictures, pair_share=pair_share, num_questions=num_questions)
    assert 1 <= len(set(drawn.frames)) == len(drawn.frames) == len(drawn.shown) <= max_pictures
    assert set(map(len, drawn.shown)) <= {1, 2}
    assert {word for things in drawn.shown for word in things} <= set(WORDS)
    assert 1 <= len(drawn.questions) <= num_questions
    for question in drawn.questions:
        assert question.answer == answer_of(question, drawn)


@given(seed=st.integers(0, 2**32))
def test_no_picture_is_asked_about_twice_and_each_type_comes_once_but_one(seed: int) -> None:
    drawn = scene(seed, num_questions=6)
    asked = [frame for question in drawn.questions for frame in subjects(question)]
    asked += [question.answer.split()[1] for question in drawn.questions if question.kind == "where"]
    assert len(asked) == len(set(asked))
    kinds = [question.kind for question in drawn.questions]
    assert max(Counter(kinds).values()) == 1 or Counter(kinds).most_common(2)[0] == ("same", 2)
    assert sum(count > 1 for count in Counter(kinds).values()) <= 1
    assert kinds == sorted(kinds, key=lambda kind: {"where": 0, "count": 1}.get(kind, 2))


@given(seed=st.integers(0, 2**32))
def test_a_lesson_is_one_picture_and_what_it_shows(seed: int) -> None:
    drawn = draw_lesson(Draws(np.random.default_rng(seed)))
    ((frame,), ((word,),), (question,)) = drawn.frames, drawn.shown, drawn.questions
    assert question == Question("what", f"What is framed in {frame}?", f"{frame} {word}")


@pytest.fixture(scope="module")
def many() -> list[Scene]:
    return [scene(seed) for seed in range(8000)]


def test_every_number_of_pictures_and_every_type_is_frequent(many: list[Scene]) -> None:
    # binomial, standard errors 36 and 60
    num_pictures = Counter(len(drawn.frames) for drawn in many)
    assert sorted(num_pictures) == [1, 2, 3, 4, 5]
    assert all(abs(count - len(many) / 5) < 160 for count in num_pictures.values())
    num_pairs = sum(len(things) == 2 for drawn in many for things in drawn.shown)
    assert abs(num_pairs - 0.2 * 3 * len(many)) < 280
    kinds = Counter(question.kind for drawn in many for question in drawn.questions)
    assert set(kinds) == set(QUESTIONS)
    assert min(kinds.values()) > 0.15 * len(many)


# what decides an answer: the last word of it; of a pair, what is on the left
NUM_OUTCOMES = {
    "where": len(COLOURS),
    "count": 3,
    "what": len(WORDS),
    "parity": len(DIGITS),
    "same": 2,
    "both": len(WORDS),
}


@pytest.mark.parametrize("kind", QUESTIONS)
def test_within_a_type_all_outcomes_are_equally_likely(kind: str, many: list[Scene]) -> None:
    found: Counter[str] = Counter()
    for drawn in many:
        for question in drawn.questions:
            if question.kind == kind:
                found[question.answer.split()[1 if kind in ("parity", "both") else -1]] += 1
    choices, total = NUM_OUTCOMES[kind], found.total()
    assert len(found) == choices
    # the largest of a few standard normal deviates
    error = 4.5 * np.sqrt(total / choices * (1 - 1 / choices))
    assert all(abs(count - total / choices) < error for count in found.values()), found


@pytest.mark.parametrize("kind", QUESTIONS)
def test_chance_is_that_of_the_likeliest_answer(kind: str, many: list[Scene]) -> None:
    """Of a guess that knows what is asked about: everything but that is compared."""
    found: Counter[tuple[str, ...]] = Counter()
    for drawn in many:
        for question in drawn.questions:
            if question.kind == kind:
                given_away = set(split_words(question.text)) if kind != "where" else set(WORDS)
                found[tuple(word for word in question.answer.split() if word not in given_away)] += 1
    chance, total = chance_by_kind()[kind], found.total()
    best = found.most_common(1)[0][1] / total
    # the likeliest of many is above its expectation by some standard errors
    assert chance - 1e-9 < best * 1.05 + 0.01
    assert best < chance + 5 * np.sqrt(chance / total)


def test_draws_are_even_and_in_range() -> None:
    draws = Draws(np.random.default_rng(0))
    counts = Counter(draws.below(7) for _ in range(7000))
    assert sorted(counts) == list(range(7))
    # binomial, standard error 29
    assert all(abs(count - 1000) < 150 for count in counts.values())
    assert sorted(draws.sample(range(5), 5)) == list(range(5))
    assert len(set(draws.sample("abcdef", 3))) == 3
