"""`lab.load`: a model by the name that commands take, to ask and to look into from Python."""

# Letters: T tokens, D model width.

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Float
from PIL import Image
from torch import Tensor

from lab.core.errors import ConfigError
from lab.core.models.generation import SamplingConfig
from lab.core.products import current
from lab.core.runs.random_streams import Seeds
from lab.experiments.distill.data import PromptConfig
from lab.experiments.distill.generation.answer import Respondent
from lab.experiments.distill.hidden_states import layers_of, states_behind
from lab.experiments.distill.load import find_model, precision_of
from lab.experiments.distill.opened_model import OpenedModel, refuse_empty
from lab.experiments.distill.selector import selected
from lab.experiments.distill.teacher import device_of


@dataclass(frozen=True, slots=True)
class LoadedModel(OpenedModel):
    """A model with its tokenizer and its prompt format; see `OpenedModel` for what it holds.

    `model` is a `LanguageModel`: torch's module, frozen, in evaluation mode. `read` gives the tokens of a prompt.
    """

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
    ) -> str:
        """The answer to a prompt, that of `lab generate` with the same options.

        Args:
            prompt: the question, with `<image>` where an image belongs; a single image needs no mark.
            images: files, or images in memory, in the order of the marks.
            max_new_tokens: where the answer ends at the latest; it ends before where the model ends its turn, or at the
                length that it was trained on.
            temperature: scores are divided by it; 0 takes the likeliest token.
            top_k: only this many of the likeliest tokens.
            top_p: only the likeliest tokens that together reach this probability.
            seed: of the random numbers, with a temperature.
            is_raw: whether the prompt is read as it stands, without the chat template.

        Raises:
            ConfigError: for an option out of its range.
            InputError: if the prompt is empty or too long, or images cannot be read or do not match it.
        """
        if max_new_tokens < 1:
            raise ConfigError(f"max_new_tokens={max_new_tokens} must be 1 or more")
        refuse_empty(prompt, images, is_raw=is_raw)
        sampling = SamplingConfig(temperature=temperature, top_k=top_k, top_p=top_p)
        respondent = Respondent(opened=self, sampling=sampling, max_new_tokens=max_new_tokens, is_raw=is_raw)
        inputs = self.read(prompt, _opened(images), is_raw=is_raw)
        return respondent.answer(inputs, Seeds(seed).torch("generate")).text

    def states(
        self,
        prompt: str,
        *,
        images: Sequence[Path | str | Image.Image] = (),
        layers: Sequence[int] | None = None,
        is_raw: bool = False,
    ) -> dict[int, Float[Tensor, "T D"]]:
        """Hidden states behind layers, before the last norm, as `lab probe` reads them: a row for each token.

        Args:
            prompt: see `generate`; its tokens are those of `read`.
            images: see `generate`.
            layers: numbers from 1, or -1 for the last; None for an early, a middle and a late one.
            is_raw: see `generate`.

        Raises:
            ConfigError: for a layer that the model does not have.
            InputError: see `generate`.
        """
        refuse_empty(prompt, images, is_raw=is_raw)
        numbers = layers_of(layers, len(self.model.mixer_layers()))
        inputs = self.read(prompt, _opened(images), is_raw=is_raw)
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
        ConfigError: for an unknown architecture, device or precision.
        RunError: if there is no such run, or nothing in it is finished.
    """
    chosen, place = precision_of(precision), device_of(device)
    found = find_model(*selected(str(model)))
    known = found.prompt
    prompt = PromptConfig(
        system=known.system if system is None else system,
        max_tiles=known.max_tiles if max_tiles is None else max_tiles,
    )
    placed = found.load(place, chosen)
    current.settle(placed, [placed.dtype])
    return LoadedModel(placed, found.tokenizer, prompt, found.stop_ids)


def _opened(images: Sequence[Path | str | Image.Image]) -> list[Path | Image.Image]:
    """Paths that were given as text, as paths."""
    return [Path(image) if isinstance(image, str) else image for image in images]
