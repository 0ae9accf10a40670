"""Questions in words about several framed pictures of garments and digits: a small task that needs vision and memory.

The prompts of `scenes.py` with real pictures, in the chat format, tiling and image tokens of the large models. A sample
is a pure function of seed and index. Training samples show training pictures only, test samples test pictures only.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray
from PIL import Image

from lab.core.data.contents import Content, contents_of
from lab.core.data.conversation import encode
from lab.core.data.prompt_format import IMAGE_MARK, PromptFormat
from lab.core.data.sample import Sample
from lab.core.data.source_spec import SourceRequest, SourceSpec, TaskFacts
from lab.core.data.tiling import cut_tiles
from lab.core.data.tokenizers import WordTokenizer, split_words
from lab.core.errors import ConfigError, InputError
from lab.core.runs.random_streams import Seeds
from lab.core.tokenizer import Tokenizer
from lab.experiments.distill.tasks.pictures import load_pictures
from lab.experiments.distill.tasks.scenes import (
    COLOURS,
    QUESTIONS,
    WORDS,
    Draws,
    Scene,
    chance_by_kind,
    draw_lesson,
    draw_scene,
)

# Letters: N pictures, S, Q sides of a picture in pixels.

# Side of a framed thing, and width of its frame, in pixels: about equal areas of colour and thing. A small model
# overlooks a frame of two pixels.
_SIDE = 28
_FRAME = 4

_TEXT_WORDS = (
    "\n . , ? system user assistant Which colour frames the How many pictures show a an is framed in the digit "
    "Even or odd even Same different same and What From left to right what"
)


@dataclass(kw_only=True, slots=True)
class PictureQuestionsConfig:
    """Sizes of the prompts, and where the pictures come from."""

    max_pictures: int = 5
    """Maximum number of pictures in a prompt; the number is drawn from one to this."""
    pair_share: float = 0.2
    """Fraction of pictures with two things side by side, in two tiles and a thumbnail; the others have one thing."""
    num_questions: int = 4
    """Number of questions in a prompt; fewer if there are too few pictures, since each is asked about only once."""
    num_lessons: int = 0
    """Number of initial samples that show one picture and ask what it is, only to train a new teacher. Without them the
    loss stays on its first plateau: looking in the right place and recognising things cannot be learnt jointly."""
    garments: Path | None = None
    """Folder with Fashion-MNIST's IDX files; null for the built-in pictures."""
    digits: Path | None = None
    """Folder with MNIST's IDX files; null for the built-in pictures."""

    def __post_init__(self) -> None:
        if not 1 <= self.max_pictures <= len(COLOURS):
            raise ConfigError(
                f"max_pictures={self.max_pictures} must lie in [1, {len(COLOURS)}], the number of colours; change it"
            )
        if not 0 <= self.pair_share <= 1:
            raise ConfigError(f"pair_share={self.pair_share} must lie in [0, 1]; change it")
        if self.num_lessons < 0:
            raise ConfigError(f"num_lessons={self.num_lessons} must not be negative; change it")
        if not 1 <= self.num_questions <= len(QUESTIONS):
            raise ConfigError(f"num_questions={self.num_questions} must lie in [1, {len(QUESTIONS)}]; change it")


class PictureQuestions:
    """The task as an endless list of samples."""

    def __init__(
        self,
        config: PictureQuestionsConfig,
        *,
        split: str,
        seed: int,
        tokenizer: Tokenizer,
        prompt_format: PromptFormat,
    ) -> None:
        """Load the pictures of a split.

        Raises:
            InputError: if the pictures cannot be read, or there is no such split.
        """
        self._config = config
        self._tokenizer = tokenizer
        self._prompt_format = prompt_format
        self._seeds = Seeds(seed)
        # the splits have different scenes, not just different pictures
        self._purpose = f"picture questions, {split}"
        self._things = _scaled_pictures(split, config.garments, config.digits)

    def scene(self, index: int) -> Scene:
        """Sample `index` in words.

        Raises:
            InputError: if the index is negative.
        """
        return self._draw_scene(index, self._draws(index))

    def __getitem__(self, index: int) -> Sample:
        """Sample `index`, encoded for the model.

        Raises:
            InputError: if the index is negative.
        """
        scene, pictures = self._illustrated(index)
        tiles = [cut_tiles(picture, self._prompt_format) for picture in pictures]
        turns = [turn for question in scene.questions for turn in (question.text, question.answer)]
        turns[0] = f"{IMAGE_MARK}\n" * len(tiles) + turns[0]
        conversation = encode(
            turns, [len(cut) for cut in tiles], tokenizer=self._tokenizer, prompt_format=self._prompt_format
        )
        kinds = tuple(question.kind for question in scene.questions)
        return Sample(np.concatenate(tiles), conversation, kinds, self._prompt_format.colours)

    def pictures(self, index: int) -> list[Image.Image]:
        """The pictures of sample `index`.

        Raises:
            InputError: if the index is negative.
        """
        return self._illustrated(index)[1]

    def _illustrated(self, index: int) -> tuple[Scene, list[Image.Image]]:
        draws = self._draws(index)
        scene = self._draw_scene(index, draws)
        shown = zip(scene.shown, scene.frames, strict=True)
        return scene, [self._picture(words, COLOURS[frame], draws) for words, frame in shown]

    def _draws(self, index: int) -> Draws:
        if index < 0:
            raise InputError(f"index={index} must not be negative; samples are counted from 0")
        return Draws(self._seeds.numpy(self._purpose, index))

    def _draw_scene(self, index: int, draws: Draws) -> Scene:
        config = self._config
        if index < config.num_lessons:
            return draw_lesson(draws)
        return draw_scene(
            draws, max_pictures=config.max_pictures, pair_share=config.pair_share, num_questions=config.num_questions
        )

    def _picture(self, words: Sequence[str], frame: tuple[int, int, int], draws: Draws) -> Image.Image:
        """Things side by side, each one of the pictures of its word, in one frame."""
        pixels = np.empty((_SIDE, len(words), _SIDE, 3), np.uint8)
        pixels[:] = frame
        for i, word in enumerate(words):
            things = self._things[word]
            pixels[_FRAME:-_FRAME, i, _FRAME:-_FRAME] = things[draws.below(len(things))][..., None]
        return Image.fromarray(pixels.reshape(_SIDE, -1, 3))


# cached: every stage of a run opens the task again
@lru_cache(maxsize=4)
def _scaled_pictures(split: str, garments: Path | None, digits: Path | None) -> dict[str, UInt8[ndarray, "N Q Q"]]:
    """The pictures of a split by word, scaled to fit inside the frame; do not modify."""
    by_word = load_pictures(split, garments=garments, digits=digits).by_word
    return {word: np.stack([_scaled(image) for image in images]) for word, images in by_word.items()}


def _scaled(image: UInt8[ndarray, "S S"]) -> UInt8[ndarray, "Q Q"]:
    """A picture scaled to fit inside its frame."""
    side = _SIDE - 2 * _FRAME
    return np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC))


def picture_questions_tokenizer(system: str) -> WordTokenizer:
    """All words of the task, followed by those of the system message."""
    words = [*split_words(_TEXT_WORDS), *COLOURS, *WORDS, *split_words(system)]
    return WordTokenizer(list(dict.fromkeys(words)))


def _open(options: PictureQuestionsConfig, request: SourceRequest) -> PictureQuestions:
    return PictureQuestions(
        options if request.has_lessons else replace(options, num_lessons=0),
        split=request.split,
        seed=request.seed,
        tokenizer=request.tokenizer,
        prompt_format=request.prompt_format,
    )


def _contents(options: PictureQuestionsConfig) -> dict[str, Content]:
    folders = [folder for folder in (options.garments, options.digits) if folder is not None]
    return contents_of([path for folder in folders for path in sorted(folder.glob("*-ubyte*")) if path.is_file()])


SOURCE = SourceSpec(
    kind="picture_questions",
    options=PictureQuestionsConfig,
    open=_open,
    contents=_contents,
    has_images=True,
    task=TaskFacts(tokenizer=picture_questions_tokenizer, chance=chance_by_kind),
)
