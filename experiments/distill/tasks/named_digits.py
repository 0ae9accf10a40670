"""Six small digits, each with a name, and questions about them by name: a minimal task that needs vision and memory.

A sequence of single tokens, without a chat format: `start`, then for each picture its name and four image tokens, then
questions of two tokens (property and name), each with an answer of one. The name is visible in every patch of its
picture and is the last token before the answer; otherwise a small teacher stays on its plateau for long.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

from lab.core.data.chat_template import IGNORED, Conversation
from lab.core.data.picture_format import IMAGENET
from lab.core.data.prompt_format import IMAGE_CONTEXT, PromptFormat
from lab.core.data.sample import Sample
from lab.core.data.source_spec import SourceRequest, SourceSpec, TaskFacts
from lab.core.data.tokenizers import WordTokenizer
from lab.core.errors import ConfigError, InputError
from lab.core.runs.random_streams import Seeds
from lab.core.tokenizer import Tokenizer
from lab.experiments.distill.tasks.pictures import DIGITS, load_pictures

# Letters: S side of a picture in pixels.

_SIDE = 8
# A name is shown as one bright pixel of sixteen in the second channel, so that a linear map of the patch can give each
# name any embedding, independently of the digit in the first channel.
_PATCH = 4
_BRIGHT = 255

_START = "start"
NAMES = (
    *("ada", "ben", "cleo", "dan", "eve", "finn", "gus", "hana"),
    *("ivan", "june", "kai", "lena", "max", "nora", "otto", "pia"),
)
# properties, and the answer for each digit
ANSWERS: dict[str, tuple[str, ...]] = {
    "digit": DIGITS,
    "parity": tuple("odd" if value % 2 else "even" for value in range(10)),
    "half": tuple("high" if value >= 5 else "low" for value in range(10)),
}


@dataclass(kw_only=True, slots=True)
class NamedDigitsConfig:
    """Number of pictures and questions in a sequence."""

    num_pictures: int = 6
    """Pictures in a sequence."""
    num_questions: int = 6
    """Questions about them."""

    def __post_init__(self) -> None:
        if not 1 <= self.num_pictures <= len(NAMES):
            raise ConfigError(
                f"num_pictures={self.num_pictures} must lie in [1, {len(NAMES)}], the number of names; change it"
            )
        if self.num_questions < 1:
            raise ConfigError(f"num_questions={self.num_questions} must be 1 or more; raise it")


class NamedDigits:
    """The task as an endless list of samples."""

    def __init__(
        self, config: NamedDigitsConfig, *, split: str, seed: int, tokenizer: Tokenizer, prompt_format: PromptFormat
    ) -> None:
        """Load the digits of a split.

        Raises:
            ConfigError: if the model does not cut a picture into four tokens of four by four pixels.
            InputError: if the digits cannot be read, or there is no such split.
        """
        if (prompt_format.image_size, prompt_format.patch_size, prompt_format.shuffle_factor) != (_SIDE, _PATCH, 1):
            raise ConfigError(
                f"data=named_digits shows {_SIDE} x {_SIDE} pixels in patches of {_PATCH} x {_PATCH}, but the teacher "
                f"has vision.image_size={prompt_format.image_size}, patch_size={prompt_format.patch_size} and "
                f"shuffle_factor={prompt_format.shuffle_factor}; choose teacher=named_digits"
            )
        self._config = config
        self._tokenizer = tokenizer
        self._tokens_per_picture = prompt_format.tokens_per_tile
        self._seeds = Seeds(seed)
        # the splits have different questions, not just different pictures
        self._purpose = f"named digits, {split}"
        by_word = load_pictures(split, garments=None, digits=None).by_word
        self._digits = [by_word[word] for word in DIGITS]
        # pictures are drawn uniformly, so some digits are slightly more frequent
        self._shares = np.array([len(pictures) for pictures in self._digits]) / sum(map(len, self._digits))

    def __getitem__(self, index: int) -> Sample:
        """Sample `index`, encoded for the model.

        Raises:
            InputError: if the index is negative.
        """
        if index < 0:
            raise InputError(f"index={index} must not be negative; samples are counted from 0")
        random, config = self._seeds.numpy(self._purpose, index), self._config
        names = random.permutation(len(NAMES))[: config.num_pictures]
        values = random.choice(len(DIGITS), size=config.num_pictures, p=self._shares)
        words = [_START]
        for name in names:
            words += [NAMES[name], *[IMAGE_CONTEXT] * self._tokens_per_picture]
        kinds = []
        for _ in range(config.num_questions):
            kind, picture = str(random.choice(list(ANSWERS))), random.integers(config.num_pictures)
            words += [kind, NAMES[names[picture]], ANSWERS[kind][values[picture]]]
            kinds.append(kind)
        ids = np.array([self._tokenizer.id_of(word) for word in words])
        answers = tuple((stop - 1, stop) for stop in range(len(ids) - 3 * len(kinds) + 3, len(ids) + 1, 3))
        labels = np.full_like(ids, IGNORED)
        for start, stop in answers:
            labels[start:stop] = ids[start:stop]
        tiles = np.stack([self._picture(value, name, random) for value, name in zip(values, names, strict=True)])
        return Sample(tiles, Conversation(ids, ids, labels, answers), tuple(kinds), IMAGENET)

    def _picture(self, value: int, name: int, random: np.random.Generator) -> UInt8[ndarray, "S S 3"]:
        """A random picture of a digit, with the name marked in every patch."""
        pixels = np.zeros((_SIDE, _SIDE, 3), np.uint8)
        pixels[..., 0] = random.choice(self._digits[value])
        pixels[name // _PATCH :: _PATCH, name % _PATCH :: _PATCH, 1] = _BRIGHT
        return pixels


def named_digits_tokenizer() -> WordTokenizer:
    """All words of the task."""
    words = [word for words in ANSWERS.values() for word in words]
    return WordTokenizer(list(dict.fromkeys([_START, *NAMES, *ANSWERS, *words])))


def named_digits_chance() -> dict[str, float]:
    """Accuracy of the most frequent answer, for each type of question, if all digits are equally frequent."""
    return {kind: max(answers.count(answer) for answer in answers) / len(answers) for kind, answers in ANSWERS.items()}


def _open(options: NamedDigitsConfig, request: SourceRequest) -> NamedDigits:
    return NamedDigits(
        options,
        split=request.split,
        seed=request.seed,
        tokenizer=request.tokenizer,
        prompt_format=request.prompt_format,
    )


SOURCE = SourceSpec(
    kind="named_digits",
    options=NamedDigitsConfig,
    open=_open,
    has_images=True,
    # samples have no system message
    task=TaskFacts(tokenizer=lambda system: named_digits_tokenizer(), chance=named_digits_chance),
)
