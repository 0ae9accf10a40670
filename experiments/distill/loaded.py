"""`lab.load`: open any model that commands know by name, to generate and to read its hidden states."""

# Letters: T tokens, D model width.

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from jaxtyping import Float
from PIL import Image
from torch import Tensor

from lab.core.data.jinja_chat import FIXED_DAY
from lab.core.errors import ConfigError
from lab.core.models.decoder import Inputs
from lab.core.models.generation import SamplingConfig
from lab.core.products import current
from lab.core.python_arguments import (
    images_of,
    require_day,
    require_flag,
    require_list,
    require_number,
    require_path,
    require_text,
    require_whole,
)
from lab.core.runs.random_streams import Seeds
from lab.experiments.distill.data import PromptConfig
from lab.experiments.distill.generation.answer import Respondent
from lab.experiments.distill.hidden_states import layers_of, states_behind
from lab.experiments.distill.load import find_model, precision_of
from lab.experiments.distill.opened_model import OpenedModel, refuse_empty, refuse_unused
from lab.experiments.distill.selector import selected
from lab.experiments.distill.teacher import device_of


@dataclass(frozen=True, slots=True)
class LoadedModel(OpenedModel):
    """A model with its tokenizer and its prompt format; see `OpenedModel` for what it holds.

    `model` is a `LanguageModel`: torch's module, frozen, in evaluation mode. `read` gives the tokens of a prompt.
    """

    def read(
        self, text: str, images: Sequence[Path | str | Image.Image], *, is_raw: bool, day: date = FIXED_DAY
    ) -> Inputs:
        """Encode a prompt, as `OpenedModel.read`; images as in `generate`.

        Raises:
            ConfigError: for an argument of another type.
            InputError: see `generate`.
        """
        require_text(text=text)
        require_flag(is_raw=is_raw)
        require_day(day)
        return OpenedModel.read(self, text, images_of(images), is_raw=is_raw, day=day)

    def read_turns(
        self, turns: Sequence[str], images: Sequence[Path | str | Image.Image], *, day: date = FIXED_DAY
    ) -> Inputs:
        """Encode a conversation, as `OpenedModel.read_turns`; images as in `generate`.

        Raises:
            ConfigError: for an argument of another type.
            InputError: see `generate`.
        """
        require_list(str, turns=turns)
        require_day(day)
        return OpenedModel.read_turns(self, turns, images_of(images), day=day)

    def generate(
        self,
        prompt: str,
        *,
        images: Sequence[Path | str | Image.Image] = (),
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int = 0,
        is_raw: bool = False,
        day: date | None = None,
    ) -> str:
        """The answer to a prompt, that of `lab generate` with the same options on the same day.

        Args:
            prompt: the question, with `<image>` where an image belongs; a single image needs no mark.
            images: files, or images in memory, in the order of the marks. Both are turned as their EXIF entry says, and
                greys of 16 bits scaled.
            max_new_tokens: where the answer ends at the latest; it ends before where the model ends its turn, or at the
                length that it was trained on.
            temperature: scores are divided by it; 0 takes the likeliest token.
            top_k: only this many of the likeliest tokens.
            top_p: only the likeliest tokens that together reach this probability.
            seed: of the random numbers, with a temperature.
            is_raw: whether the prompt is read as it stands, without the chat template.
            day: what a chat template that writes the date writes; None for today, as `lab generate`.

        Raises:
            ConfigError: for an option of another type or out of its range.
            InputError: if the prompt is empty or too long, or images cannot be read or do not match it.
        """
        require_text(prompt=prompt)
        require_whole(max_new_tokens=max_new_tokens, seed=seed, **_given(top_k=top_k))
        require_number(temperature=temperature, **_given(top_p=top_p))
        require_flag(is_raw=is_raw)
        require_day(today := date.today() if day is None else day)
        if max_new_tokens < 1:
            raise ConfigError(f"max_new_tokens={max_new_tokens} must be 1 or more; raise it")
        pictures = images_of(images)
        refuse_empty(prompt, pictures, is_raw=is_raw)
        sampling = SamplingConfig(temperature=temperature, top_k=top_k, top_p=top_p)
        respondent = Respondent(opened=self, sampling=sampling, max_new_tokens=max_new_tokens, is_raw=is_raw)
        inputs = self.read(prompt, pictures, is_raw=is_raw, day=today)
        return respondent.answer(inputs, Seeds(seed).torch("generate")).text

    def states(
        self,
        prompt: str,
        *,
        images: Sequence[Path | str | Image.Image] = (),
        layers: Sequence[int] | None = None,
        is_raw: bool = False,
        day: date = FIXED_DAY,
    ) -> dict[int, Float[Tensor, "T D"]]:
        """Hidden states behind layers, before the last norm, as `lab probe` reads them: a row for each token.

        Args:
            prompt: see `generate`; its tokens are those of `read`.
            images: see `generate`.
            layers: numbers from 1, or -1 for the last; None for an early, a middle and a late one.
            is_raw: see `generate`.
            day: what a chat template that writes the date writes; by default that of `read` and of training, always the
                same one.

        Raises:
            ConfigError: for an argument of another type, or a layer that the model does not have.
            InputError: see `generate`.
        """
        require_text(prompt=prompt)
        require_flag(is_raw=is_raw)
        require_list(int, **_given(layers=layers))
        pictures = images_of(images)
        refuse_empty(prompt, pictures, is_raw=is_raw)
        wanted = None if layers is None else [int(number) for number in layers]
        numbers = layers_of(wanted, len(self.model.mixer_layers()))
        inputs = self.read(prompt, pictures, is_raw=is_raw, day=day)
        return {number: states[0] for number, states in states_behind(self.model, inputs, numbers).items()}


def load(
    model: str | Path,
    *,
    device: str = "auto",
    precision: str | None = None,
    system: str | None = None,
    max_tiles: int | None = None,
) -> LoadedModel:
    """Load a model.

    Args:
        model: a checkpoint folder (a teacher, or an exported student of either layout), a GGUF file of a teacher,
            `shipped`, a run (its directory, or the end of its name), or RUN@STAGE:VARIANT:REPLICATE, of which each part
            may be left out.
        device: cpu, cuda or auto.
        precision: bfloat16, float32 or float64; None as stored.
        system: system message of prompts; None for the one of training.
        max_tiles: of an image; None for as many as in training.

    Raises:
        CheckpointError: for files that are missing or damaged.
        ConfigError: for an argument of another type, an unknown architecture, device or precision, or an option of
            prompts that the model does not use.
        InputError: for a name that the file system does not take.
        RunError: if there is no such run, or nothing in it is finished.
    """
    require_path(model=model)
    require_text(device=device, **_given(precision=precision, system=system))
    require_whole(**_given(max_tiles=max_tiles))
    chosen, place = precision_of(precision), device_of(device)
    found = find_model(*selected(str(model)))
    refuse_unused(found.template, found.architecture, system=system, max_tiles=max_tiles)
    known = found.prompt
    prompt = PromptConfig(
        system=known.system if system is None else system,
        max_tiles=known.max_tiles if max_tiles is None else max_tiles,
    )
    placed = found.load(place, chosen)
    current.settle(placed, [placed.dtype])
    return LoadedModel(placed, found.tokenizer, prompt, found.stop_ids)


def _given(**values: object) -> dict[str, object]:
    """The values that are not None."""
    return {name: value for name, value in values.items() if value is not None}
