"""The teacher of a run: loaded once and frozen, or trained from scratch on a built-in task."""

import hashlib
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

import torch

from lab.core.data.prompt_format import IMAGE_CONTEXT
from lab.core.data.tokenizers import WordTokenizer
from lab.core.errors import ConfigError
from lab.core.models.checkpoint import CONFIG, write_checkpoint
from lab.core.models.config import ModelConfig
from lab.core.models.decoder import LanguageModel
from lab.core.models.families import Teacher, TeacherConfig, build_random
from lab.core.models.spec import family_of, key_map
from lab.core.parallel.layout import whole
from lab.core.runs.random_streams import Seeds
from lab.core.streams import say_once

# teacher.path=shipped: the trained copy that comes with the project
SHIPPED = "shipped"
SHIPPED_FOLDER = Path(str(files("lab.experiments.distill").joinpath("hovle_tiny")))
DEVICES = ("auto", "cpu", "cuda")


def device_of(name: str) -> torch.device:
    """Resolve `cpu`, `cuda` or `auto` to a device.

    Raises:
        ConfigError: for another name, and for cuda without a GPU.
    """
    if name not in DEVICES:
        raise ConfigError(f"device={name}: choose from {', '.join(DEVICES)}")
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device=cuda: no GPU is available; use device=cpu, or auto")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def folder_of(config: TeacherConfig) -> Path | None:
    """The path of the teacher's files; None for random weights."""
    if config.path == SHIPPED:
        return SHIPPED_FOLDER
    return None if config.path is None else Path(config.path)


def open_teacher(config: TeacherConfig, *, device: torch.device, seed: int) -> Teacher:
    """The teacher of a configuration; teachers read from files are cached.

    Raises:
        CheckpointError: if config.json, or a GGUF file, is missing or damaged.
        ConfigError: for an unsupported or unexpected architecture, and for a student.
    """
    if config.path is None:
        return Teacher(config, None, device=device, generator=Seeds(seed).torch("random teacher"))
    path = folder_of(config)
    assert path is not None, "checked above"
    # a changed file under the same name is another teacher
    file = path if path.suffix == ".gguf" else path / CONFIG
    changed = file.stat().st_mtime_ns if file.exists() else None
    return _open_once(_Key(config, path.resolve(), changed), device)


def first_device(config: TeacherConfig, device: torch.device, *, is_cut: bool) -> torch.device:
    """Where a teacher is opened: on its device, or without numbers on the meta device, where each process reads a part.

    A GGUF file is read as a whole, which the CPU has room for if a GPU has none.

    Args:
        config: of the teacher.
        device: of the run.
        is_cut: whether the teacher will be cut into parts.
    """
    if not is_cut:
        return device
    if config.path is not None and Path(config.path).suffix == ".gguf":
        say_once(f"teacher.path={config.path}: each process reads a GGUF file as a whole before it keeps its part")
        return torch.device("cpu")
    return torch.device("meta")


def load_teacher(config: TeacherConfig, *, device: torch.device, seed: int) -> LanguageModel:
    """The model of `open_teacher`, frozen.

    Raises:
        CheckpointError: as `open_teacher`, and for weights that are missing, damaged or do not match config.json.
        ConfigError: as `open_teacher`.
    """
    return open_teacher(config, device=device, seed=seed).model


class _Key:
    """A cache key of a configuration and the state of its files."""

    def __init__(self, config: TeacherConfig, path: Path, changed: int | None) -> None:
        self.config = config
        self._values = repr(config), path, changed

    def __hash__(self) -> int:
        return hash(self._values)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and self._values == other._values


@lru_cache(maxsize=1)
def _open_once(key: _Key, device: torch.device) -> Teacher:
    # the run reuses what was loaded for the checks before it
    return Teacher(key.config, folder_of(key.config), device=device, generator=torch.Generator())


def digest(model: LanguageModel) -> str:
    """A digest of a model's weights."""
    total = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(model.state_dict().items()):
        total.update(name.encode())
        total.update(whole(tensor.detach()).cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def new_teacher(
    architecture: ModelConfig, tokenizer: WordTokenizer, *, damped: bool = True, device: torch.device, seed: int
) -> LanguageModel:
    """A model with random weights, to be trained on a built-in task.

    Raises:
        ConfigError: if the architecture does not match the vocabulary of the task.
    """
    assert architecture.vision is not None, "the built-in tasks are about pictures"
    vocab_size, image_id = architecture.decoders[-1].vocab_size, architecture.vision.image_token_id
    key = f"teacher.{family_of(architecture).name}"
    if vocab_size < len(tokenizer):
        raise ConfigError(f"{key}: vocab_size={vocab_size} must be {len(tokenizer)} or more, the task's words")
    if image_id != tokenizer.id_of(IMAGE_CONTEXT):
        raise ConfigError(f"{key}.vision.image_token_id={image_id} must be {tokenizer.id_of(IMAGE_CONTEXT)}")
    model = build_random(
        architecture, device=device, dtype=torch.float32, generator=Seeds(seed).torch("new teacher"), std=1.0
    )
    num_residuals = 2 * len(model.mixer_layers())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim < 2 or parameter is model.input_embedding.weight:
                continue
            # patches and text have the same scale; with damping, all layers together add as much as their input
            share = num_residuals if damped and name.endswith(("wo.weight", "down.weight")) else 1
            parameter.mul_((share * parameter[0].numel()) ** -0.5)
    return model


def write_teacher(model: LanguageModel, tokenizer: WordTokenizer, folder: Path) -> None:
    """Write a trained teacher as a public checkpoint folder with its vocabulary.

    Raises:
        CheckpointError: if the folder exists.
        RunError: if the disk is full or cannot be written.
    """
    config = family_of(model.config).config_json(model.config)
    write_checkpoint(folder, key_map(model).to_public(model.state_dict()), config, write_more=tokenizer.write)
