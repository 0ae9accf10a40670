"""Prompts of the picture questions in words: which pictures there are, what they show, what is asked and answered.

A prompt has a few pictures, each under a name (a letter), some of one thing and some of two things side by side. Names
are drawn anew each time, so an answer must be looked up by content, across the prompt. Answers are drawn first and the
pictures made to fit: within a type of question all answers are equally likely.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from lab.core.data.pictures import DIGITS, GARMENTS

Item = TypeVar("Item")

NAMES = tuple("ABCDEFGHJKLMNPRT")
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
        names: of the pictures, in their order.
        shown: for each picture the things in it, from left to right.
        questions: in their order; no picture is asked about twice.
    """

    names: tuple[str, ...]
    shown: tuple[tuple[str, ...], ...]
    questions: tuple[Question, ...]


class Draws:
    """Random choices from one stream of uniform numbers."""

    def __init__(self, rng: np.random.Generator) -> None:
        """Numbers are taken from `rng` in blocks: a call for each would take longer than the rest of a scene."""
        self._uniform = _endless(rng)

    def below(self, bound: int) -> int:
        """A whole number from 0 to `bound` - 1."""
        return int(next(self._uniform) * bound)

    def choice(self, items: Sequence[Item]) -> Item:
        """One of the items."""
        return items[self.below(len(items))]

    def sample(self, items: Sequence[Item], count: int) -> list[Item]:
        """Some of the items, none twice, in random order."""
        rest = list(items)
        return [rest.pop(self.below(len(rest))) for _ in range(count)]


def draw_scene(draws: Draws, *, num_singles: int, num_pairs: int, num_questions: int) -> Scene:
    """A prompt with `num_questions` questions, or as many as the pictures last for."""
    num_pictures = num_singles + num_pairs
    is_pair = [i >= num_singles for i in draws.sample(range(num_pictures), num_pictures)]
    board = _Board(
        draws=draws,
        names=draws.sample(NAMES, num_pictures),
        shown=[["", ""] if pair else [""] for pair in is_pair],
        singles=[i for i in range(num_pictures) if not is_pair[i]],
        pairs=[i for i in range(num_pictures) if is_pair[i]],
    )
    order = draws.sample(tuple(QUESTIONS), len(QUESTIONS))
    # Questions about all pictures come first: what was said of single ones would narrow their answers down. For the
    # same reason none of them is made up for a question that found no picture.
    asked = sorted(order[:num_questions], key=lambda kind: _ABOUT_ALL.get(kind, len(_ABOUT_ALL)))
    reserve = [kind for kind in order[num_questions:] if kind not in _ABOUT_ALL]
    questions: list[Question] = []
    for kind in [*asked, *reserve]:
        found = QUESTIONS[kind](board) if len(questions) < num_questions else None
        if found is not None:
            questions.append(Question(kind, *found))
    for things in board.shown:
        things[:] = [word or board.word(WORDS) for word in things]
    return Scene(tuple(board.names), tuple(map(tuple, board.shown)), tuple(questions))


def chance_by_kind(*, num_pictures: int) -> dict[str, float]:
    """For each type of question, how often a guess is right that knows the text and has not seen the pictures."""
    return {
        "where": 1 / num_pictures,
        "count": 1 / (_MOST_COUNTED + 1),
        "garment": 1 / len(GARMENTS),
        "digit": 1 / len(DIGITS),
        "parity": 1 / 2,
        "same": 1 / 2,
        "side": 1 / len(WORDS),
        "both": 1 / len(WORDS) ** 2,
    }


@dataclass(slots=True)
class _Board:
    """A scene while it is drawn; a thing that is still open is an empty word.

    `singles` and `pairs` hold the pictures that no question is about yet, `words` what may still be shown.
    """

    draws: Draws
    names: list[str]
    shown: list[list[str]]
    singles: list[int]
    pairs: list[int]
    words: list[str] = field(default_factory=lambda: list(WORDS))

    def claim(self, among: Sequence[int]) -> int:
        """A picture for a question, from now on taken."""
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


# Each type of question finds itself a picture, draws the answer, shows what makes it true, and gives question and
# answer; None if no picture is left for it. The name of the picture stands last, as near to the answer as the chat
# allows: otherwise a small model stays on a plateau before it learns to look it up.


def _where(board: _Board) -> tuple[str, str]:
    index, word = board.claim_any(), board.last_word()
    board.show(index, word)
    return f"Which picture shows the {word}?", board.names[index]


def _count(board: _Board) -> tuple[str, str]:
    number, word = board.draws.below(_MOST_COUNTED + 1), board.last_word()
    for _ in range(number):
        board.show(board.claim_any(), word)
    return f"How many pictures show {'an' if word == 'eight' else 'a'} {word}?", DIGITS[number]


def _garment(board: _Board) -> tuple[str, str] | None:
    if not board.singles:
        return None
    index, word = board.claim(board.singles), board.word(tuple(GARMENTS.values()))
    board.show(index, word)
    return f"Which garment is in {board.names[index]}?", word


def _digit(board: _Board) -> tuple[str, str] | None:
    if not board.singles:
        return None
    index, word = board.claim(board.singles), board.word(DIGITS)
    board.show(index, word)
    return f"Which digit is in {board.names[index]}?", word


def _parity(board: _Board) -> tuple[str, str] | None:
    if not board.singles:
        return None
    index, remainder = board.claim(board.singles), board.draws.below(2)
    board.show(index, board.word(DIGITS[remainder::2]))
    return f"Even or odd, the digit in {board.names[index]}?", ("even", "odd")[remainder]


def _same(board: _Board) -> tuple[str, str] | None:
    if len(board.singles) < 2:
        return None
    first, second = board.claim(board.singles), board.claim(board.singles)
    kin = board.draws.choice((tuple(GARMENTS.values()), DIGITS))
    word = board.word(kin)
    is_same = board.draws.below(2)
    board.show(first, word)
    board.show(second, word if is_same else board.word([other for other in kin if other != word]))
    return f"Same or different, {board.names[first]} and {board.names[second]}?", ("different", "same")[is_same]


def _side(board: _Board) -> tuple[str, str] | None:
    if not board.pairs:
        return None
    index, side, word = board.claim(board.pairs), board.draws.below(2), board.word(WORDS)
    board.shown[index][side] = word
    return f"What is on the {('left', 'right')[side]} in {board.names[index]}?", word


def _both(board: _Board) -> tuple[str, str] | None:
    if not board.pairs:
        return None
    index = board.claim(board.pairs)
    board.shown[index][:] = board.word(WORDS), board.word(WORDS)
    return f"From left to right, what is in {board.names[index]}?", " ".join(board.shown[index])


def _endless(rng: np.random.Generator) -> Iterator[float]:
    while True:
        yield from rng.random(64).tolist()


QUESTIONS: dict[str, Callable[[_Board], tuple[str, str] | None]] = {
    "where": _where,
    "count": _count,
    "garment": _garment,
    "digit": _digit,
    "parity": _parity,
    "same": _same,
    "side": _side,
    "both": _both,
}
_ABOUT_ALL = {"where": 0, "count": 1}
