"""Questions in words about several named pictures of garments and digits: a small task that needs eyes and memory.

The prompts of `scenes.py` with real pictures, in the chat format, tiling and image tokens of the large models. A sample
is a pure function of seed and index. Training samples show training pictures only, test samples test pictures only.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from lab.core.data.conversations import IMAGE_MARK, ChatConfig, encode_conversation
from lab.core.data.pictures import load_pictures
from lab.core.data.samples import Sample
from lab.core.data.scenes import NAMES, QUESTIONS, WORDS, Draws, Scene, draw_scene
from lab.core.data.tiling import TilingConfig, cut_tiles
from lab.core.data.tokenizers import Tokenizer, WordTokenizer, split_words
from lab.core.errors import ConfigError, InputError
from lab.core.seeds import Seeds

# side in pixels of a picture of one thing
_PIXELS = 28

_TEXT_WORDS = (
    "\n . , : ? system user assistant Which picture shows the How many pictures show a an garment is in digit Even or "
    "odd even Same different same and What on left right From to what"
)


@dataclass(kw_only=True, slots=True)
class PictureQuestionsConfig:
    """How much a prompt shows and asks, and where its pictures come from."""

    num_singles: int = 4
    """Pictures of one thing in a prompt."""
    num_pairs: int = 1
    """Pictures of two things side by side in a prompt: two tiles and a thumbnail."""
    num_questions: int = 4
    """Questions in a prompt; fewer if the pictures do not last, for each is asked about once."""
    garments: Path | None = None
    """Folder with Fashion-MNIST's IDX files; None for the pictures that ship."""
    digits: Path | None = None
    """Folder with MNIST's IDX files; None for the pictures that ship."""

    def __post_init__(self) -> None:
        if self.num_singles < 2:
            raise ConfigError(f"num_singles={self.num_singles} must be 2 or more, for 'same or different'; raise it")
        if self.num_pairs < 1:
            raise ConfigError(f"num_pairs={self.num_pairs} must be 1 or more, for 'left' and 'right'; raise it")
        if self.num_singles + self.num_pairs > len(NAMES):
            raise ConfigError(
                f"num_singles={self.num_singles} and num_pairs={self.num_pairs} need more than the {len(NAMES)} names "
                "that there are; lower one of them"
            )
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
        chat: ChatConfig,
        tiling: TilingConfig,
    ) -> None:
        """Load the pictures of a split.

        Raises:
            InputError: if the pictures cannot be read, or there is no such split.
        """
        self._config = config
        self._tokenizer = tokenizer
        self._chat = chat
        self._tiling = tiling
        self._seeds = Seeds(seed)
        # the splits have scenes of their own, and not the same ones with other pictures
        self._purpose = f"picture questions, {split}"
        self._pictures = load_pictures(split, garments=config.garments, digits=config.digits).by_word

    def scene(self, index: int) -> Scene:
        """Sample `index` in words.

        Raises:
            InputError: if the index is negative.
        """
        return self._draw_scene(self._draws(index))

    def __getitem__(self, index: int) -> Sample:
        """Sample `index` as the model reads it.

        Raises:
            InputError: if the index is negative.
        """
        draws = self._draws(index)
        scene = self._draw_scene(draws)
        tiles = [cut_tiles(self._picture(words, draws), self._tiling) for words in scene.shown]
        turns = [turn for question in scene.questions for turn in (question.text, question.answer)]
        turns[0] = "".join(f"{name}: {IMAGE_MARK}\n" for name in scene.names) + turns[0]
        conversation = encode_conversation(
            turns, [len(cut) for cut in tiles], tokenizer=self._tokenizer, chat=self._chat, tiling=self._tiling
        )
        return Sample(np.concatenate(tiles), conversation, tuple(question.kind for question in scene.questions))

    def _draws(self, index: int) -> Draws:
        if index < 0:
            raise InputError(f"index={index} must not be negative; samples are counted from 0")
        return Draws(self._seeds.numpy(self._purpose, index))

    def _draw_scene(self, draws: Draws) -> Scene:
        config = self._config
        return draw_scene(
            draws, num_singles=config.num_singles, num_pairs=config.num_pairs, num_questions=config.num_questions
        )

    def _picture(self, words: Sequence[str], draws: Draws) -> Image.Image:
        """Things side by side, each one of the pictures of its word."""
        things = []
        for word in words:
            images = self._pictures[word]
            things.append(Image.fromarray(images[draws.below(len(images))]))
        if len(things) == 1:
            return things[0]
        picture = Image.new("L", (_PIXELS * len(things), _PIXELS))
        for i, thing in enumerate(things):
            picture.paste(thing.resize((_PIXELS, _PIXELS), Image.Resampling.BICUBIC), (_PIXELS * i, 0))
        return picture


def picture_questions_tokenizer(system: str) -> WordTokenizer:
    """All words of the task, and those of the system message behind them."""
    words = [*split_words(_TEXT_WORDS), *NAMES, *WORDS, *split_words(system)]
    return WordTokenizer(list(dict.fromkeys(words)))
