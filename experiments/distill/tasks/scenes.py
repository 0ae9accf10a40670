"""Prompts of the picture questions in words: which pictures there are, what they show, what is asked and answered.

A prompt has a few pictures, each in a frame of another colour, some of one thing and some of two things side by side.
Colours are drawn anew each time, so an answer must be looked up by content, across the prompt. It begins with what it
is about, and names what it follows from: «Even or odd, the digit framed in red?» «red seven odd». Each word of it is
then one step of looking something up by the word before. What is asked for is drawn first and the pictures made to fit:
within a type of question all outcomes are equally likely.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from lab.experiments.distill.tasks.pictures import DIGITS, GARMENTS

Item = TypeVar("Item")

# the corners of the RGB cube: a linear map of pixels can tell each of them from all others
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
        frames: colours of the pictures' frames, in their order.
        shown: for each picture the things in it, from left to right.
        questions: in their order; no picture is asked about twice.
    """

    frames: tuple[str, ...]
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

    def happens(self, share: float) -> bool:
        """True in this share of all cases."""
        return next(self._uniform) < share

    def choice(self, items: Sequence[Item]) -> Item:
        """One of the items."""
        return items[self.below(len(items))]

    def sample(self, items: Sequence[Item], count: int) -> list[Item]:
        """Some of the items, none twice, in random order."""
        rest = list(items)
        return [rest.pop(self.below(len(rest))) for _ in range(count)]


def draw_scene(draws: Draws, *, max_pictures: int, pair_share: float, num_questions: int) -> Scene:
    """A prompt with 1 to `max_pictures` pictures and `num_questions` questions, or as many as the pictures last for."""
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
    return Scene(tuple(board.frames), tuple(map(tuple, board.shown)), tuple(questions))


def draw_lesson(draws: Draws) -> Scene:
    """A first lesson: one picture, and what it shows."""
    frame, word = draws.choice(tuple(COLOURS)), draws.choice(WORDS)
    return Scene((frame,), ((word,),), (Question("what", *_asked_what(frame, word)),))


def chance_by_kind() -> dict[str, float]:
    """For each type of question, how often a guess is right that knows the question alone.

    Earlier questions of the prompt give little away: a word that was looked for is shown nowhere else.
    """
    return {
        "where": 1 / len(COLOURS),
        "count": 1 / (_MOST_COUNTED + 1),
        "what": 1 / len(WORDS),
        "parity": 1 / len(DIGITS),
        # the likeliest: twice the same garment
        "same": 1 / 2 * 1 / len(GARMENTS) * 1 / 2,
        "both": 1 / len(WORDS) ** 2,
    }


@dataclass(slots=True)
class _Board:
    """A scene while it is drawn; a thing that is still open is an empty word.

    `singles` and `pairs` hold the pictures that no question is about yet, `words` what may still be shown.
    """

    draws: Draws
    frames: list[str]
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


# Each type of question finds itself a picture, draws what will be the outcome, shows what makes it true, and gives
# question and answer; None if no picture is left for it.


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
# What a prompt's questions are drawn from. Few prompts have the pictures for a comparison, and it is learned late.
_DECK = (*QUESTIONS, "same")
