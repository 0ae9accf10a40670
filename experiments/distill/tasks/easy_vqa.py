"""easy-VQA: questions about one coloured shape in an image of 64 x 64 pixels, from the package of that name (MIT).

38,575 questions about 4,000 images for training, 9,673 about 1,000 other images held out; 13 answers. The wording gives
much away: "is there a blue shape?" is mostly answered no. Who answers as most of the training questions with the same
wording are answered is right on 67.0 % of the held-out ones: 82.5 % of yes or no, 34.8 % of shapes, 12.0 % of colours.
"""

from collections import Counter
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from lab.core.data.conversation import encode
from lab.core.data.prompt_format import IMAGE_MARK
from lab.core.data.sample import Sample
from lab.core.data.source_spec import SourceRequest, SourceSpec, TaskFacts
from lab.core.data.stream import SPLITS
from lab.core.data.tiling import cut_tiles, load_image
from lab.core.data.tokenizers import WordTokenizer, split_words
from lab.core.errors import InputError
from lab.core.optional_packages import load_package
from lab.core.ranges import LARGEST_COUNT, refuse_outside

_YES_OR_NO = ("yes", "no")
_SHAPES = ("circle", "rectangle", "triangle")
_COLOURS = ("black", "blue", "brown", "gray", "green", "red", "teal", "yellow")
_TEXT_WORDS = "\n . , ? system user assistant a color contain does image in is not of present shape the there what"


class Asked(NamedTuple):
    """A question.

    Attributes:
        text: of the question.
        answer: one word.
        kind: what it asks for: yes or no, shape or colour.
        image: number of the image that it is about.
        path: of the image.
    """

    text: str
    answer: str
    kind: str
    image: int
    path: Path


def questions_of(split: str) -> list[Asked]:
    """The questions of a split, in the order of the package.

    Raises:
        BackendError: if the package is not installed.
        InputError: if there is no such split, or the package lacks an image.
    """
    if split not in SPLITS:
        raise InputError(f"split={split!r} must be one of {', '.join(SPLITS)}; choose one")
    package = load_package("easy_vqa", needed_by="the task easy_vqa")
    texts, answers, images = getattr(package, f"get_{split}_questions")()
    paths = getattr(package, f"get_{split}_image_paths")()
    lost = next((image for image in images if image not in paths), None)
    if lost is not None:
        raise InputError(f"the package easy-vqa lacks the {split} image {lost}; install it again")
    return [
        Asked(text, answer, _kind(answer), image, Path(paths[image]))
        for text, answer, image in zip(texts, answers, images, strict=True)
    ]


def most_frequent_answers() -> dict[str, str]:
    """The most frequent answer to each wording among the training questions; of equally frequent ones the first."""
    answers: dict[str, Counter[str]] = {}
    for asked in questions_of("train"):
        answers.setdefault(asked.text, Counter())[asked.answer] += 1
    return {text: counts.most_common(1)[0][0] for text, counts in answers.items()}


@dataclass(kw_only=True, slots=True)
class EasyVqaConfig:
    """How the questions are shown."""

    num_questions: int = 4
    """Maximum number of questions about an image in a conversation. With more than one, answers help with later ones:
    whoever has said red knows whether there is a blue shape."""

    def __post_init__(self) -> None:
        refuse_outside(self, "num_questions", at_least=1, at_most=LARGEST_COUNT)


class EasyVqa:
    """The conversations of a split."""

    def __init__(self, config: EasyVqaConfig, request: SourceRequest) -> None:
        """Read the questions.

        Raises:
            BackendError: if the package is not installed.
            InputError: if there is no such split, or the package lacks an image.
        """
        self._request = request
        self._conversations: list[list[Asked]] = []
        by_image = sorted(questions_of(request.split), key=lambda asked: asked.image)
        for _, group in groupby(by_image, key=lambda asked: asked.image):
            about_one = list(group)
            self._conversations += [
                about_one[start : start + config.num_questions]
                for start in range(0, len(about_one), config.num_questions)
            ]

    def __len__(self) -> int:
        return len(self._conversations)

    def __getitem__(self, index: int) -> Sample:
        """An image and questions about it, in the chat format of the model.

        Raises:
            InputError: if the image cannot be read.
        """
        conversation = self._conversations[index]
        tiles = cut_tiles(load_image(conversation[0].path), self._request.prompt_format)
        turns = [turn for asked in conversation for turn in (asked.text, asked.answer)]
        turns[0] = f"{IMAGE_MARK}\n{turns[0]}"
        encoded = encode(
            turns, [len(tiles)], tokenizer=self._request.tokenizer, prompt_format=self._request.prompt_format
        )
        kinds = tuple(asked.kind for asked in conversation)
        return Sample(tiles, encoded, kinds, self._request.prompt_format.colours)


def easy_vqa_tokenizer(system: str) -> WordTokenizer:
    """All words of the task, followed by those of the system message."""
    words = [*split_words(_TEXT_WORDS), *_YES_OR_NO, *_SHAPES, *_COLOURS, *split_words(system)]
    return WordTokenizer(list(dict.fromkeys(words)))


def easy_vqa_chance() -> dict[str, float]:
    """For each kind, the share of held-out questions that the most frequent answer to their wording gets right."""
    answers = most_frequent_answers()
    asked = questions_of("test")
    totals = Counter(one.kind for one in asked)
    right = Counter(one.kind for one in asked if answers.get(one.text) == one.answer)
    return {kind: right[kind] / total for kind, total in totals.items()}


def _kind(answer: str) -> str:
    return "yes or no" if answer in _YES_OR_NO else "shape" if answer in _SHAPES else "colour"


SOURCE = SourceSpec(
    kind="easy_vqa",
    options=EasyVqaConfig,
    open=EasyVqa,
    has_images=True,
    task=TaskFacts(tokenizer=easy_vqa_tokenizer, chance=easy_vqa_chance),
)
