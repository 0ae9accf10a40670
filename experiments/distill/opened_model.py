"""A loaded model, and how questions become what it reads."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from lab.core.data.batch import normalize
from lab.core.data.conversation import encode, template_of
from lab.core.data.jinja_chat import FIXED_DAY
from lab.core.data.pixels import fault_of, upright_rgb
from lab.core.data.tiling import cut_tiles, load_image
from lab.core.errors import ConfigError, InputError
from lab.core.models.config import ModelConfig
from lab.core.models.decoder import Inputs, LanguageModel
from lab.core.tokenizer import Tokenizer
from lab.experiments.distill.data import PromptConfig, prompt_format


def refuse_empty(text: str, images: Sequence[object], *, is_raw: bool) -> None:
    """Refuse a question without a word or an image; see `OpenedModel.read`.

    Raises:
        InputError: if it is one.
    """
    if not is_raw and not images and not text.strip():
        raise InputError("the prompt is empty; give some text")


def refuse_pictures(images: Sequence[object], architecture: ModelConfig) -> None:
    """Refuse pictures for a model that reads text only.

    Raises:
        InputError: naming the first.
    """
    if images and architecture.vision is None:
        raise InputError(f"image={images[0]}: this model reads text only; leave the images out")


def refuse_unused(
    template: str | None, architecture: ModelConfig, *, system: str | None, max_tiles: int | None
) -> None:
    """Refuse options of prompts that a model does not use.

    Args:
        template: of the model.
        architecture: of the model.
        system: the system message that was asked for.
        max_tiles: the tiles of an image that were asked for.

    Raises:
        ConfigError: naming the option.
    """
    if system and template is None:
        raise ConfigError(f"system={system[:60]!r}: the model has no chat template to write it with; leave it out")
    if max_tiles is not None and architecture.vision is None:
        raise ConfigError(f"max_tiles={max_tiles}: this model reads text only; leave it out")


@dataclass(frozen=True, slots=True)
class OpenedModel:
    """A model with everything needed to prompt it.

    Attributes:
        model: frozen, in evaluation mode.
        tokenizer: of the model.
        prompt: the prompt format of training, as far as known.
        stop_ids: tokens that end an answer.
    """

    model: LanguageModel
    tokenizer: Tokenizer
    prompt: PromptConfig
    stop_ids: frozenset[int]

    @property
    def template(self) -> str | None:
        """What writes a prompt as a conversation; None for a text model without a chat template."""
        return template_of(self.tokenizer, prompt_format(self.prompt, self.model.config))

    def read(self, text: str, images: Sequence[Path | Image.Image], *, is_raw: bool, day: date = FIXED_DAY) -> Inputs:
        """Encode a prompt for the model, as it is if there is no chat template.

        Args:
            text: the question; see `read_turns`.
            images: of the question.
            is_raw: whether the text is used verbatim, without the chat template.
            day: for templates that write it.

        Raises:
            InputError: as `read_turns`, or if a raw prompt is empty or has images.
        """
        _refuse_half_characters("prompt", text)
        if not is_raw and self.template is not None:
            return self.read_turns([text], images, day=day)
        if images:
            raise InputError(f"image={images[0]}: a raw prompt is text only; leave the images out")
        ids = [] if self.tokenizer.bos_id is None else [self.tokenizer.bos_id]
        ids += self.tokenizer.encode(text)
        if not ids:
            raise InputError("the prompt is empty; give some text")
        return Inputs(tokens=self._row(ids))

    def read_turns(
        self, turns: Sequence[str], images: Sequence[Path | Image.Image], *, day: date = FIXED_DAY
    ) -> Inputs:
        """Encode a conversation whose last turn is a question.

        Args:
            turns: question, answer, question, ..., with a placeholder for each image; a single image needs none.
            images: files or images in memory, in the order of the placeholders; both are read by `upright_rgb`.
            day: for templates that write it.

        Raises:
            InputError: if a text has half of a character, an image cannot be read, placeholders and images do not
                match, the model takes no images, or its template refuses the conversation.
        """
        _refuse_half_characters("system", self.prompt.system)
        for turn in turns:
            _refuse_half_characters("prompt", turn)
        architecture = self.model.config
        refuse_pictures(images, architecture)
        written = prompt_format(self.prompt, architecture)
        opened = [_opened(number, image) for number, image in enumerate(images)]
        tiles = [normalize(cut_tiles(image, written), written.colours) for image in opened]
        conversation = encode(
            turns, [len(cut) for cut in tiles], tokenizer=self.tokenizer, prompt_format=written, day=day
        )
        reads_every_patch = bool(tiles) and written.reads_every_patch
        return Inputs(
            tokens=self._row(conversation.llm_ids),
            pixel_values=torch.cat(tiles).to(self._device) if tiles else None,
            hd_tokens=self._row(conversation.embedding_ids) if reads_every_patch else None,
        )

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device

    def _row(self, ids: Iterable[int]) -> Tensor:
        return torch.tensor([list(ids)], dtype=torch.int64, device=self._device)


def _refuse_half_characters(name: str, text: str) -> None:
    """Refuse what no tokenizer reads: bytes of a command line that are not UTF-8, say."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InputError(f"{name}={text[:60]!r} has half of a character; give text in UTF-8") from None


def _opened(number: int, image: Path | Image.Image) -> Image.Image:
    if isinstance(image, Path):
        return load_image(image)
    try:
        return upright_rgb(image)
    except MemoryError:
        raise
    # Image.open reads pixels only now: a damaged file raises whatever its format's reader met first
    except Exception as error:
        raise InputError(
            f"images[{number}] cannot be read ({fault_of(error)}); give an image that Pillow can load"
        ) from None
