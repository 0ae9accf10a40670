"""Teachers: frozen models, read from public checkpoints of any family in the table."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lab.core.errors import ConfigError
from lab.core.hydra_schema import register_schema
from lab.core.models.checkpoint import CONFIG, StoredTensors, load_weights
from lab.core.models.config import HovleConfig, ModelConfig
from lab.core.models.decoder import LanguageModel, draw_weights
from lab.core.models.gguf import read_gguf
from lab.core.models.hf_config import Json, load_json, read_hovle, read_llama
from lab.core.models.hovle import Hovle
from lab.core.models.llama import Llama
from lab.core.models.tensor_names import KeyMap, hovle_keys, llama_keys


class Family(NamedTuple):
    """How the checkpoints of some models are read.

    Attributes:
        read: config.json to an architecture.
        model: an architecture to a model.
        keys: a model to the names of its tensors in a checkpoint.
    """

    read: Callable[[Json], Any]
    model: Callable[[Any], LanguageModel]
    keys: Callable[[Any], KeyMap]


HOVLE = Family(read_hovle, Hovle, hovle_keys)
LLAMA = Family(read_llama, Llama, llama_keys)

# by model_type of config.json; a family that is added here can be a teacher
TEACHERS: dict[str, Family] = {"internvl_chat": HOVLE, "llama": LLAMA, "qwen2": LLAMA}


class Precision(Enum):
    """The dtype of a model's weights."""

    bfloat16 = "bfloat16"
    float32 = "float32"
    float64 = "float64"

    @property
    def dtype(self) -> torch.dtype:
        """As torch calls it."""
        return {"bfloat16": torch.bfloat16, "float32": torch.float32, "float64": torch.float64}[self.value]


@dataclass(kw_only=True, slots=True)
class TeacherConfig:
    """Which teacher, and in which precision."""

    path: str | None = None
    """Folder with config.json and safetensors, or a GGUF file; null: random weights, for benchmarks and dry runs."""
    precision: Precision = Precision.bfloat16
    """dtype of the weights."""
    damped: bool = True
    """stage=teacher: whether what adds to the residual stream starts smaller, by the root of its number of terms."""
    hovle: HovleConfig | None = None
    """The architecture; one that is given must be what config.json says. null: whatever config.json says."""

    def __post_init__(self) -> None:
        if self.path is None and self.hovle is None:
            raise ConfigError(
                "teacher.path is null; give the folder of a checkpoint, or an architecture in teacher.hovle"
            )


def register() -> None:
    """Make the schema of the configuration group `teacher` known to Hydra."""
    register_schema("teacher_schema", TeacherConfig, group="teacher")


def build(config: ModelConfig, *, dtype: torch.dtype = torch.float32) -> LanguageModel:
    """A model on the meta device: shapes and names without memory."""
    family = HOVLE if isinstance(config, HovleConfig) else LLAMA
    with torch.device("meta"):
        return family.model(config).to(dtype)


def key_map(model: LanguageModel) -> KeyMap:
    """The names of a model's tensors in a checkpoint of its family."""
    return (HOVLE if isinstance(model, Hovle) else LLAMA).keys(model)


def build_random(
    config: ModelConfig, *, device: torch.device, dtype: torch.dtype, generator: torch.Generator, std: float
) -> LanguageModel:
    """A model with random weights, ready for training."""
    model = build(config, dtype=dtype).to_empty(device=device)
    draw_weights(model, generator=generator, std=std)
    return model


def load(path: Path, *, device: torch.device, dtype: torch.dtype) -> LanguageModel:
    """A teacher with the weights of a checkpoint: frozen, in evaluation mode.

    Args:
        path: a folder with config.json and safetensors, or a GGUF file of Llama's family (needs transformers).
        device: of the weights.
        dtype: of the weights.

    Raises:
        CheckpointError: for files that are missing, damaged or do not fit config.json.
        ConfigError: for an architecture that is not implemented, naming key and value.
    """
    content, stored = _read(path)
    model = build(_architecture(content, path), dtype=dtype)
    load_weights(model, key_map(model), stored, source=path, device=device, dtype=dtype)
    return model.requires_grad_(False).eval()


def from_config(config: TeacherConfig, *, device: torch.device, generator: torch.Generator) -> LanguageModel:
    """The teacher that a configuration names, frozen and in evaluation mode.

    Args:
        config: which one.
        device: of the weights.
        generator: of random weights, if there is no path.

    Raises:
        CheckpointError: as `load`.
        ConfigError: as `load`, and if config.json describes another architecture than `config.hovle`.
    """
    dtype = config.precision.dtype
    if config.path is None:
        assert config.hovle is not None, "TeacherConfig checks it"
        # as in the public code of InternLM2
        model = build_random(config.hovle, device=device, dtype=dtype, generator=generator, std=0.02)
        return model.requires_grad_(False).eval()
    path = Path(config.path)
    if config.hovle is not None:
        _refuse_another(read_architecture(path), config.hovle, path)
    return load(path, device=device, dtype=dtype)


def read_architecture(path: Path) -> ModelConfig:
    """The architecture of a checkpoint folder, without its weights.

    Raises:
        CheckpointError: if config.json is missing or damaged.
        ConfigError: as `load`.
    """
    return _architecture(load_json(path / CONFIG), path)


def _architecture(content: Json, path: Path) -> ModelConfig:
    model_type = content.get("model_type")
    if model_type not in TEACHERS:
        raise ConfigError(f"{path}: model_type={model_type} is not implemented, only {', '.join(TEACHERS)}")
    try:
        return TEACHERS[model_type].read(content)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def _read(path: Path) -> tuple[Json, Mapping[str, Tensor]]:
    if path.suffix == ".gguf":
        return read_gguf(path)
    return load_json(path / CONFIG), StoredTensors(path)


def _refuse_another(found: ModelConfig, wanted: ModelConfig, path: Path) -> None:
    says = _flat(asdict(found))
    for key, value in _flat(asdict(wanted)).items():
        if says.get(key) != value:
            raise ConfigError(
                f"teacher.hovle.{key}={value} but {path / CONFIG} says {says.get(key)}; choose another teacher, or set "
                "teacher.hovle=null to take every value from the file"
            )


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value.value if isinstance(value, Enum) else value
    return flat
