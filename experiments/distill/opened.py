"""Models by the names that users have for them: a run, a checkpoint folder of a teacher or a student, `shipped`."""

import contextlib
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
from lab.core.models.config import HovleConfig, PixelShuffle
from lab.core.models.decoder import Inputs, LanguageModel
from lab.core.models.families import Precision, TeacherConfig, load
from lab.core.models.hf_config import Json, load_json
from lab.core.models.hovle import Hovle
from lab.core.models.llama import Llama
from lab.core.models.student_format import is_checkpoint, is_student, load_student
from lab.core.tokenizer import Tokenizer
from lab.experiments.distill.data import PromptConfig, prompt_format, tokenizer_of
from lab.experiments.distill.load import load_finished
from lab.experiments.distill.sources import StudentSelector, choose_node, find_recorded
from lab.experiments.distill.teacher import SHIPPED, folder_of

# key of an exported config.json: how prompts were written in training
PROMPT = "prompt"
_KEPT = ("system", "max_tiles")


@dataclass(frozen=True, slots=True)
class OpenedModel:
    """A model and what it takes to talk to it.

    Attributes:
        model: frozen, in evaluation mode.
        tokenizer: of the model.
        prompt: how prompts were written in training, as far as it is known.
        stop_ids: tokens that end an answer.
    """

    model: LanguageModel
    tokenizer: Tokenizer
    prompt: PromptConfig
    stop_ids: frozenset[int]

    def read(self, text: str, images: Sequence[Path], *, is_raw: bool) -> Inputs:
        """A prompt as the model reads it.

        Args:
            text: a question, with a mark where each image belongs; one image needs none.
            images: in the order of the marks.
            is_raw: whether the text is taken as it is, without the chat format.

        Raises:
            InputError: if an image cannot be read, marks and images do not match, or the model cannot read them.
        """
        assert isinstance(self.model, Hovle | Llama), "the families that there are"
        architecture = self.model.config
        if images and (is_raw or not isinstance(architecture, HovleConfig)):
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
    """The model that a name means.

    Args:
        name: a folder with config.json and safetensors, a GGUF file, `shipped`, or a run: its directory, or the end of
            its name.
        selector: which student of a run.
        device: of the weights.
        precision: of the weights; None for that of the run or of config.json.

    Raises:
        CheckpointError: for files that are missing, damaged or do not fit together.
        ConfigError: for an architecture that is not implemented, or a selector where there is none.
        RunError: if there is no such run, or nothing in it is finished.
    """
    path = Path(name)
    if name == SHIPPED or path.suffix == ".gguf" or is_checkpoint(path):
        if not selector.is_any:
            raise ConfigError(
                f"{name} is no run: stage, variant and replicate choose among a run's students; drop them"
            )
        folder = folder_of(TeacherConfig(path=name))
        assert folder is not None, "a path is given"
        return _open_folder(folder, device=device, precision=precision, prompt=None)
    if os.sep in name and not path.is_dir():
        raise CheckpointError(
            f"{name} does not exist; give the folder of a checkpoint or a run, or the end of its name"
        )
    run = find_recorded(name)
    prompt = run.config.prompt
    if run.teacher_folder is not None:
        if not run.teacher_folder.exists():
            raise RunError(f"{run.folder} has no finished teacher; `lab distill resume={run.folder.name}` goes on")
        return _open_folder(run.teacher_folder, device=device, precision=precision, prompt=prompt)
    model = load_finished(run, choose_node(run, selector), device=device)
    folder = folder_of(run.config.teacher)
    tokenizer = tokenizer_of(folder, prompt, run.config.data)
    dtype = (precision or run.config.teacher.precision).dtype
    return OpenedModel(model.to(dtype), tokenizer, prompt, _stop_ids(folder, tokenizer))


def kept_of(prompt: PromptConfig) -> dict[str, Any]:
    """What an exported config.json says of how prompts were written."""
    return {name: getattr(prompt, name) for name in _KEPT}


def _open_folder(
    path: Path, *, device: torch.device, precision: Precision | None, prompt: PromptConfig | None
) -> OpenedModel:
    is_file = path.suffix == ".gguf"
    if is_file and not path.is_file():
        raise CheckpointError(f"{path} is missing; give a GGUF file")
    content = {} if is_file else load_json(path / CONFIG)
    dtype = (precision or _stored_precision(content)).dtype
    prompt = _kept_prompt(content, path) if prompt is None else prompt
    # the small file first: without it the large ones are of no use
    tokenizer = tokenizer_of(path, prompt, None)
    if not is_file and is_student(path):
        model = load_student(path, device=device, dtype=dtype)
    else:
        model = load(path, device=device, dtype=dtype)
    return OpenedModel(model, tokenizer, prompt, _stop_ids(path, tokenizer))


def _stored_precision(content: Json) -> Precision:
    """The dtype that config.json names; float32 if it names none, or one that models cannot be loaded in."""
    said = content.get("torch_dtype") or content.get("dtype")
    return Precision(said) if said in Precision.__members__ else Precision.float32


def _kept_prompt(content: Json, path: Path) -> PromptConfig:
    kept = content.get(PROMPT, {})
    try:
        return PromptConfig(**{name: kept[name] for name in _KEPT if name in kept})
    except (TypeError, ConfigError) as error:
        raise CheckpointError(
            f"{path / CONFIG}: {PROMPT}={kept} does not say how prompts are written; {error}"
        ) from None


def _stop_ids(path: Path | None, tokenizer: Tokenizer) -> frozenset[int]:
    """The end of a turn, and what the files of a public checkpoint, or beside a GGUF file, call the end of a text."""
    found: set[Any] = set()
    folder = path.parent if path is not None and path.suffix == ".gguf" else path
    # the tokenizer of a text model need not know turns
    with contextlib.suppress(InputError):
        found.add(tokenizer.id_of(TURN_END))
    for name in (CONFIG, "generation_config.json"):
        if folder is None or not (folder / name).is_file():
            continue
        content = load_json(folder / name)
        for section in (content, content.get("llm_config")):
            said = section.get("eos_token_id") if isinstance(section, dict) else None
            found.update(said if isinstance(said, list) else [said])
    return frozenset(index for index in found if isinstance(index, int))
