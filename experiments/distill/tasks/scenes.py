"""Prompts of the picture questions in words: the pictures, their content, questions and answers.

A prompt has a few pictures, each in a frame of a different colour, with one thing or two things side by side. Colours
are drawn for each prompt, so an answer must be looked up by content. It starts with its subject and names the evidence:
"Even or odd, the digit framed in red?" "red seven odd", so each of its words is one look-up by the previous word.
Outcomes are drawn first and the pictures chosen to fit, so that within a question type all outcomes are equally likely.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from lab.experiments.distill.tasks.pictures import DIGITS, GARMENTS

Item = TypeVar("Item")

# corners of the RGB cube: a linear map of pixels can separate each from all others
COLOURS = {
    "black": (0, 0, 0),
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "yellow": (255, 255, 0),
    "purple": (255, 0, 255),
    "turquoise": (0, 255, 255),
    "white": (255, 255, 255),
}
WORDS = (*GARMENTS.values(), *DIGITS)

_MOST_COUNTED = 2


@dataclass(frozen=True, slots=True)
class Question:
    """A question, its answer, and its type: a key of `QUESTIONS`."""

    kind: str
    text: str
    answer: str


@dataclass(frozen=True, slots=True)
class Scene:
    """A prompt in words.

    Attributes:
        frames: colours of the pictures' frames, in order.
        shown: the things in each picture, from left to right.
        questions: in order; no picture is asked about twice.
    """

    frames: tuple[str, ...]
    shown: tuple[tuple[str, ...], ...]
    questions: tuple[Question, ...]


class Draws:
    """Random choices from one stream of uniform numbers."""

    def __init__(self, rng: np.random.Generator) -> None:
        """Numbers are drawn from `rng` in blocks: one call each would take longer than the rest of a scene."""
        self._uniform = _endless(rng)

    def below(self, bound: int) -> int:
        """A whole number from 0 to `bound` - 1."""
        return int(next(self._uniform) * bound)

    def happens(self, share: float) -> bool:
        """True with this probability."""
        return next(self._uniform) < share

    def choice(self, items: Sequence[Item]) -> Item:
        """One of the items."""
        return items[self.below(len(items))]

    def sample(self, items: Sequence[Item], count: int) -> list[Item]:
        """Distinct items in random order."""
        rest = list(items)
        return [rest.pop(self.below(len(rest))) for _ in range(count)]


def draw_scene(draws: Draws, *, max_pictures: int, pair_share: float, num_questions: int) -> Scene:
    """A prompt with 1 to `max_pictures` pictures and `num_questions` questions, or as many as the pictures allow."""
    num_pictures = 1 + draws.below(max_pictures)
    is_pair = [draws.happens(pair_share) for _ in range(num_pictures)]
    board = _Board(
        draws=draws,
        frames=draws.sample(tuple(COLOURS), num_pictures),
        shown=[["", ""] if pair else [""] for pair in is_pair],
        singles=[i for i in range(num_pictures) if not is_pair[i]],
        pairs=[i for i in range(num_pictures) if is_pair[i]],
    )
    order = draws.sample(_DECK, len(_DECK))
    # Questions about all pictures come first: questions about single pictures would narrow down their answers. For the
    # same reason, a question that found no picture is not replaced by one of them.
    asked = sorted(order[:num_questions], key=lambda kind: _ABOUT_ALL.get(kind, len(_ABOUT_ALL)))
    reserve = [kind for kind in order[num_questions:] if kind not in _ABOUT_ALL]
    questions: list[Question] = []
    for kind in [*asked, *reserve]:
        found = QUESTIONS[kind](board) if len(questions) < num_questions else None
        if found is not None:
            questions.append(Question(kind, *found))
    for things in board.shown:
        things[:] = [word or board.word(WORDS) for word in things]
    return Scene(tuple(board.frames), tuple(map(tuple, board.shown)), tuple(questions))


def draw_lesson(draws: Draws) -> Scene:
    """A lesson for a new teacher: one picture, and its content."""
    frame, word = draws.choice(tuple(COLOURS)), draws.choice(WORDS)
    return Scene((frame,), ((word,),), (Question("what", *_asked_what(frame, word)),))


def chance_by_kind() -> dict[str, float]:
    """Accuracy, for each question type, of the best guess from the question alone.

    Earlier questions of the prompt reveal little: a word that was asked about is shown nowhere else.
    """
    return {
        "where": 1 / len(COLOURS),
        "count": 1 / (_MOST_COUNTED + 1),
        "what": 1 / len(WORDS),
        "parity": 1 / len(DIGITS),
        # the most likely outcome: the same garment twice
        "same": 1 / 2 * 1 / len(GARMENTS) * 1 / 2,
        "both": 1 / len(WORDS) ** 2,
    }


@dataclass(slots=True)
class _Board:
    """A scene under construction; an undecided thing is an empty word.

    `singles` and `pairs` hold the pictures without a question, `words` the words that may still be shown.
    """

    draws: Draws
    frames: list[str]
    shown: list[list[str]]
    singles: list[int]
    pairs: list[int]
    words: list[str] = field(default_factory=lambda: list(WORDS))

    def claim(self, among: Sequence[int]) -> int:
        """Take a picture for a question."""
        index = self.draws.choice(among)
        for free in (self.singles, self.pairs):
            if index in free:
                free.remove(index)
        return index

    def claim_any(self) -> int:
        return self.claim([*self.singles, *self.pairs])

    def word(self, among: Sequence[str]) -> str:
        """A word that may still be shown."""
        return self.draws.choice([word for word in among if word in self.words])

    def last_word(self) -> str:
        """A word that is shown nowhere else."""
        word = self.draws.choice(self.words)
        self.words.remove(word)
        return word

    def show(self, index: int, word: str) -> None:
        """Put a thing into a picture, on a random side of a pair."""
        self.shown[index][self.draws.below(len(self.shown[index]))] = word


# Each question type takes a picture, draws the outcome, shows the things that make it true, and returns question and
# answer; None if no suitable picture is left.


def _where(board: _Board) -> tuple[str, str]:
    index, word = board.claim_any(), board.last_word()
    board.show(index, word)
    return f"Which colour frames the {word}?", f"{word} {board.frames[index]}"


def _count(board: _Board) -> tuple[str, str] | None:
    if len(board.singles) + len(board.pairs) < _MOST_COUNTED:
        return None
    number, word = board.draws.below(_MOST_COUNTED + 1), board.last_word()
    for _ in range(number):
        board.show(board.claim_any(), word)
    return f"How many pictures show {'an' if word == 'eight' else 'a'} {word}?", f"{word} {DIGITS[number]}"


def _what(board: _Board) -> tuple[str, str] | None:
    if not board.singles:
        return None
    index, word = board.claim(board.singles), board.word(WORDS)
    board.show(index, word)
    return _asked_what(board.frames[index], word)


def _asked_what(frame: str, word: str) -> tuple[str, str]:
    return f"What is framed in {frame}?", f"{frame} {word}"


def _parity(board: _Board) -> tuple[str, str] | None:
    if not board.singles:
        return None
    index, remainder = board.claim(board.singles), board.draws.below(2)
    frame, word = board.frames[index], board.word(DIGITS[remainder::2])
    board.show(index, word)
    return f"Even or odd, the digit framed in {frame}?", f"{frame} {word} {('even', 'odd')[remainder]}"


def _same(board: _Board) -> tuple[str, str] | None:
    if len(board.singles) < 2:
        return None
    first, second = board.claim(board.singles), board.claim(board.singles)
    kin = board.draws.choice((tuple(GARMENTS.values()), DIGITS))
    word, is_same = board.word(kin), board.draws.below(2)
    other = word if is_same else board.word([one for one in kin if one != word])
    board.show(first, word)
    board.show(second, other)
    frames = board.frames[first], board.frames[second]
    found = f"{frames[0]} {word} {frames[1]} {other} {('different', 'same')[is_same]}"
    return f"Same or different, {frames[0]} and {frames[1]}?", found


def _both(board: _Board) -> tuple[str, str] | None:
    if not board.pairs:
        return None
    index = board.claim(board.pairs)
    board.shown[index][:] = board.word(WORDS), board.word(WORDS)
    frame = board.frames[index]
    return f"From left to right, what is framed in {frame}?", " ".join((frame, *board.shown[index]))


def _endless(rng: np.random.Generator) -> Iterator[float]:
    while True:
        yield from rng.random(64).tolist()


QUESTIONS: dict[str, Callable[[_Board], tuple[str, str] | None]] = {
    "where": _where,
    "count": _count,
    "what": _what,
    "parity": _parity,
    "same": _same,
    "both": _both,
}
_ABOUT_ALL = {"where": 0, "count": 1}
# The distribution of question types. Few prompts have the pictures for a comparison, and it is learned late.
_DECK = (*QUESTIONS, "same")
