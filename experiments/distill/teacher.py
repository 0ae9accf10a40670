"""The teacher of a run: loaded once and frozen, or trained anew on a task that ships."""

import hashlib
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

import torch

from lab.core.data.prompt_format import IMAGE_CONTEXT
from lab.core.data.tokenizers import WordTokenizer
from lab.core.errors import ConfigError
from lab.core.models.checkpoint import write_checkpoint
from lab.core.models.config import HovleConfig
from lab.core.models.decoder import LanguageModel
from lab.core.models.families import TeacherConfig, build_random, from_config, key_map
from lab.core.models.hf_config import hovle_json
from lab.core.models.hovle import Hovle
from lab.core.models.student_format import is_checkpoint, is_student
from lab.core.runs.random_streams import Seeds

# teacher.path=shipped: the trained copy that comes with the project
SHIPPED = "shipped"
DEVICES = ("auto", "cpu", "cuda")


def device_of(name: str) -> torch.device:
    """The device that `cpu`, `cuda` or `auto` means here.

    Raises:
        ConfigError: for another name, and for cuda where there is none.
    """
    if name not in DEVICES:
        raise ConfigError(f"device={name}: choose from {', '.join(DEVICES)}")
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device=cuda: there is none here; use device=cpu, or auto")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def folder_of(config: TeacherConfig) -> Path | None:
    """Where the teacher's files are; None for random weights."""
    if config.path == SHIPPED:
        return Path(str(files("lab.experiments.distill").joinpath("hovle_tiny")))
    return None if config.path is None else Path(config.path)


def load_teacher(config: TeacherConfig, *, device: torch.device, seed: int) -> LanguageModel:
    """The teacher that a configuration names, frozen; asked for again, it is the same object.

    Raises:
        CheckpointError: for files that are missing, damaged or do not fit config.json.
        ConfigError: for an architecture that is not implemented, or is not the one that is asked for.
    """
    folder = folder_of(config)
    if folder is None:
        return from_config(config, device=device, generator=Seeds(seed).torch("random teacher"))
    if is_checkpoint(folder) and is_student(folder):
        raise ConfigError(
            f"teacher.path={folder} is a student; give the folder of its teacher, and from_run to go on from a student"
        )
    wanted = TeacherConfig(path=str(folder), precision=config.precision, hovle=config.hovle)
    return _load_once(_Hashable(wanted), device)


class _Hashable:
    """A configuration as a key."""

    def __init__(self, config: TeacherConfig) -> None:
        self.config = config

    def __hash__(self) -> int:
        return hash(repr(self.config))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Hashable) and repr(self.config) == repr(other.config)


@lru_cache(maxsize=1)
def _load_once(key: _Hashable, device: torch.device) -> LanguageModel:
    # what is checked before a run begins need not be read again by the run
    return from_config(key.config, device=device, generator=torch.Generator())


def digest(model: LanguageModel) -> str:
    """What tells the weights of two models apart."""
    total = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(model.state_dict().items()):
        total.update(name.encode())
        total.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def new_teacher(
    architecture: HovleConfig, tokenizer: WordTokenizer, *, damped: bool = True, device: torch.device, seed: int
) -> LanguageModel:
    """A model with random weights that will be trained on a task that ships.

    Raises:
        ConfigError: if the architecture does not fit the words of the task.
    """
    vocab_size, image_id = architecture.llm.vocab_size, architecture.vision.image_token_id
    if vocab_size < len(tokenizer):
        raise ConfigError(
            f"teacher.hovle.llm.vocab_size={vocab_size} must be {len(tokenizer)} or more, the task's words"
        )
    if image_id != tokenizer.id_of(IMAGE_CONTEXT):
        raise ConfigError(f"teacher.hovle.vision.image_token_id={image_id} must be {tokenizer.id_of(IMAGE_CONTEXT)}")
    model = build_random(
        architecture, device=device, dtype=torch.float32, generator=Seeds(seed).torch("new teacher"), std=1.0
    )
    assert isinstance(model, Hovle), "the architecture is HoVLE's"
    num_residuals = 2 * len(model.mixer_layers())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim < 2 or parameter is model.embedding.tokens.weight:
                continue
            # patches and text meet on one scale; damped, all layers together add as much as they receive
            share = num_residuals if damped and name.endswith(("wo.weight", "down.weight")) else 1
            parameter.mul_((share * parameter[0].numel()) ** -0.5)
    return model


def write_teacher(model: LanguageModel, tokenizer: WordTokenizer, folder: Path) -> None:
    """Write a trained teacher as a public checkpoint folder with its vocabulary.

    Raises:
        CheckpointError: if the folder is in use.
        RunError: if the disk is full or cannot be written.
    """
    assert isinstance(model, Hovle), "only HoVLE is trained here"
    write_checkpoint(folder, key_map(model).to_public(model.state_dict()), hovle_json(model.config))
    tokenizer.write(folder)
