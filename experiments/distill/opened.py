"""Resolve a run, a checkpoint folder, a GGUF file or `shipped` to a loaded model."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lab.core.data.chat_template import encode_conversation
from lab.core.data.prompt_format import TURN_END
from lab.core.data.tiling import cut_tiles, load_image, normalize
from lab.core.errors import CheckpointError, ConfigError, InputError, RunError
from lab.core.models.checkpoint import CONFIG
from lab.core.models.config import PixelShuffle
from lab.core.models.decoder import Inputs, LanguageModel
from lab.core.models.folder import PROMPT, ModelFolder, Precision
from lab.core.tokenizer import Tokenizer
from lab.experiments.distill.data import PromptConfig, prompt_format, tokenizer_of
from lab.experiments.distill.load import load_finished
from lab.experiments.distill.sources import StudentSelector, choose_node, find_recorded
from lab.experiments.distill.teacher import SHIPPED, SHIPPED_FOLDER, open_teacher

# keys of an exported config.json that record the prompt format of training
_KEPT = ("system", "max_tiles")


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

    def read(self, text: str, images: Sequence[Path], *, is_raw: bool) -> Inputs:
        """Encode a prompt for the model.

        Args:
            text: the question, with a placeholder for each image; a single image needs none.
            images: in the order of the placeholders.
            is_raw: whether the text is used verbatim, without the chat format.

        Raises:
            InputError: if an image cannot be read, placeholders and images do not match, or the model takes no images.
        """
        architecture = self.model.config
        if images and (is_raw or architecture.vision is None):
            why = "a raw prompt is text only" if is_raw else "this model reads text only"
            raise InputError(f"image={images[0]}: {why}; leave the images out")
        device = next(self.model.parameters()).device

        def row(ids: Any) -> Tensor:
            return torch.tensor([list(ids)], dtype=torch.int64, device=device)

        if is_raw:
            ids = [] if self.tokenizer.bos_id is None else [self.tokenizer.bos_id]
            ids += self.tokenizer.encode(text)
            if not ids:
                raise InputError("the prompt is empty; give some text")
            return Inputs(tokens=row(ids))
        written = prompt_format(self.prompt, architecture)
        tiles = [normalize(cut_tiles(load_image(path), written)) for path in images]
        conversation = encode_conversation(
            [text], [len(cut) for cut in tiles], tokenizer=self.tokenizer, prompt_format=written
        )
        reads_every_patch = bool(tiles) and written.pixel_shuffle is PixelShuffle.post
        return Inputs(
            tokens=row(conversation.llm_ids),
            pixel_values=torch.cat(tiles).to(device) if tiles else None,
            hd_tokens=row(conversation.embedding_ids) if reads_every_patch else None,
        )


def open_model(
    name: str, selector: StudentSelector, *, device: torch.device, precision: Precision | None
) -> OpenedModel:
    """Load the model that a name refers to.

    Args:
        name: a folder with config.json and safetensors, a GGUF file, `shipped`, or a run: its directory, or the end of
            its name.
        selector: which student of a run.
        device: of the weights.
        precision: of the weights; None for the run's or config.json's.

    Raises:
        CheckpointError: for files that are missing, damaged or inconsistent.
        ConfigError: for an unknown architecture, or a selector for a model that is not a run.
        RunError: if there is no such run, or nothing in it is finished.
    """
    path = Path(name)
    folder = ModelFolder(SHIPPED_FOLDER) if name == SHIPPED else ModelFolder.find(path)
    if folder is not None:
        if not selector.is_any:
            raise ConfigError(
                f"{name} is not a run: stage, variant and replicate choose among a run's students; drop them"
            )
        return _open_folder(folder, device=device, precision=precision, prompt=None)
    if os.sep in name and not path.is_dir():
        raise CheckpointError(
            f"{name} does not exist; give the folder of a checkpoint or a run, or the end of its name"
        )
    run = find_recorded(name)
    prompt = run.config.prompt
    if run.teacher_folder is not None:
        if not run.teacher_folder.exists():
            raise RunError(f"{run.folder} has no finished teacher; resume={run.folder.name} continues it")
        folder = ModelFolder(run.teacher_folder)
        return _open_folder(folder, device=device, precision=precision, prompt=prompt)
    model = load_finished(run, choose_node(run, selector), device=device)
    # cached: the teacher that the student was loaded with
    folder = open_teacher(run.config.teacher, device=device, seed=run.config.seed).folder
    tokenizer = tokenizer_of(folder, prompt, run.config.data)
    stop_ids = frozenset({tokenizer.id_of(TURN_END)}) if folder is None else folder.stop_ids(tokenizer)
    return OpenedModel(model.to((precision or run.config.teacher.precision).dtype), tokenizer, prompt, stop_ids)


def kept_of(prompt: PromptConfig) -> dict[str, Any]:
    """The prompt format recorded in an exported config.json."""
    return {name: getattr(prompt, name) for name in _KEPT}


def _open_folder(
    folder: ModelFolder, *, device: torch.device, precision: Precision | None, prompt: PromptConfig | None
) -> OpenedModel:
    prompt = _kept_prompt(folder) if prompt is None else prompt
    # the small file first: without it the large ones are useless
    tokenizer = tokenizer_of(folder, prompt, None)
    model = folder.load(device=device, dtype=(precision or folder.precision).dtype)
    return OpenedModel(model, tokenizer, prompt, folder.stop_ids(tokenizer))


def _kept_prompt(folder: ModelFolder) -> PromptConfig:
    try:
        return PromptConfig(**{name: folder.prompt[name] for name in _KEPT if name in folder.prompt})
    except (TypeError, ConfigError) as error:
        raise CheckpointError(
            f"{folder.path / CONFIG}: {PROMPT}={folder.prompt} is not a valid prompt format; {error}"
        ) from None
