"""What the project knows of a family of models: one `FamilySpec` in the family's own folder.

A folder in core/models that defines `SPEC` is found by `families()`; nothing else is edited to add one, but a YAML file
in conf/teacher.
"""

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any

import torch

from lab.core.dotted_keys import by_dotted_key
from lab.core.errors import ConfigError
from lab.core.models.config import ModelConfig
from lab.core.models.decoder import LanguageModel
from lab.core.models.hf_config import Json
from lab.core.models.output_head import with_stored_head
from lab.core.models.stock_vision import StockVision
from lab.core.models.tensor_names import KeyMap


@dataclass(frozen=True, slots=True, kw_only=True)
class FamilySpec:
    """A family of models.

    Attributes:
        name: of its folder, and of its key below `teacher` in configurations.
        config: the dataclass of its architectures; no other family has it.
        model_types: what config.json files of the family have as `model_type`.
        read: a config.json to an architecture.
        write: an architecture to a config.json that `read` reads.
        model: an architecture to a model.
        names: a model to the names of its tensors in a checkpoint.
        sections: the objects of config.json that describe the stacks of `config.decoders`; "" is the file itself.
        released_student: entries of config.json, by section, of mmMamba's release of a student of this family; None
            where there is no release.
        stock_vision: a model to how a stock architecture of transformers reads its images, or a refusal; None for text
            only.
        with_files: a config.json and its folder to the same with what other files say of the architecture; None where
            config.json says all, but for an output head of a text model (`with_stored_head`).
        renamed: a tensor's name in a checkpoint to the one that `names` has for it; None where there is one way to
            write it.
    """

    name: str
    config: type[ModelConfig]
    model_types: tuple[str, ...]
    read: Callable[[Json], ModelConfig]
    write: Callable[[Any], dict[str, Any]]
    model: Callable[[Any], LanguageModel]
    names: Callable[[Any], KeyMap]
    sections: tuple[str, ...] = ("",)
    released_student: Mapping[str, Mapping[str, Any]] | None = None
    stock_vision: Callable[[Any], StockVision] | None = None
    with_files: Callable[[Json, Path], Json] | None = None
    renamed: Callable[[str], str] | None = None

    def read_folder(self, content: Json, folder: Path) -> ModelConfig:
        """The architecture that a config.json in a folder describes.

        Raises:
            CheckpointError: if a file that it needs besides is missing or damaged.
            ConfigError: as `read`.
        """
        if self.with_files is not None:
            return self.read(self.with_files(content, folder))
        return with_stored_head(self.read(content), folder)

    def config_json(self, config: ModelConfig) -> dict[str, Any]:
        """A config.json that describes an architecture.

        Raises:
            ConfigError: naming the first value that files of the family have no key for.
        """
        content = self.write(config)
        difference = first_difference(config, self.read(content))
        if difference is not None:
            key, value, other = difference
            raise ConfigError(f"{self.name}.{key}={value} has no place in a config.json of {self.name}, only {other}")
        return content


@cache
def families() -> dict[str, FamilySpec]:
    """Every family by its name."""
    package = importlib.import_module("lab.core.models")
    found: dict[str, FamilySpec] = {}
    for info in pkgutil.iter_modules(package.__path__, "lab.core.models."):
        if info.ispkg:
            spec = importlib.import_module(info.name).SPEC
            assert spec.name == info.name.rpartition(".")[2], f"{info.name} calls its family {spec.name}"
            found[spec.name] = spec
    return found


def family_of(config: ModelConfig) -> FamilySpec:
    """The family of an architecture."""
    return next(spec for spec in families().values() if spec.config is type(config))


def family_of_type(model_type: object) -> FamilySpec | None:
    """The family whose files have this `model_type`; None if there is none."""
    return next((spec for spec in families().values() if model_type in spec.model_types), None)


def model_types() -> list[str]:
    """Every `model_type` that is implemented."""
    return [model_type for spec in families().values() for model_type in spec.model_types]


def build(config: ModelConfig, *, dtype: torch.dtype = torch.float32) -> LanguageModel:
    """A model on the meta device: shapes and names without memory."""
    with torch.device("meta"):
        return family_of(config).model(config).to(dtype)


def key_map(model: LanguageModel) -> KeyMap:
    """The names of a model's tensors in a checkpoint of its family."""
    return family_of(model.config).names(model)


def first_difference(one: ModelConfig, other: ModelConfig) -> tuple[str, Any, Any] | None:
    """The first key in which two architectures differ, and its two values; None if they are equal."""
    ours, theirs = _values(one), _values(other)
    for key in [*ours, *(theirs.keys() - ours.keys())]:
        if ours.get(key) != theirs.get(key):
            return key, ours.get(key), theirs.get(key)
    return None


def _values(config: ModelConfig) -> dict[str, Any]:
    """The values of an architecture by their keys below it, as in `rotary.theta`."""
    content = by_dotted_key(asdict(config))
    return {key: value.value if isinstance(value, Enum) else value for key, value in content.items()}
