"""Teachers of every family: with random weights, or read from public checkpoints."""

from collections.abc import Mapping
from dataclasses import dataclass, field, make_dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Optional

import torch

from lab.core.errors import ConfigError
from lab.core.hydra_schema import register_schema
from lab.core.models.checkpoint import CONFIG
from lab.core.models.config import ModelConfig
from lab.core.models.decoder import LanguageModel, draw_weights
from lab.core.models.folder import Kind, ModelFolder, Precision
from lab.core.models.parts import draw_parts
from lab.core.models.spec import build, families, family_of, first_difference

# as in the public code of InternLM2
_RANDOM_STD = 0.02


@dataclass(kw_only=True, slots=True)
class TeacherBase:
    """Which teacher, and in which precision; `TeacherConfig` adds a key for the architectures of each family."""

    path: str | None = None
    """Folder with config.json and safetensors, or a GGUF file; null: random weights, for benchmarks and dry runs."""
    precision: Precision = Precision.bfloat16
    """dtype of the weights."""
    damped: bool = True
    """stage=teacher: whether what adds to the residual stream starts smaller, by the root of its number of terms."""

    def __post_init__(self) -> None:
        given = [f"teacher.{name}" for name, config in self._architectures().items() if config is not None]
        if len(given) > 1:
            raise ConfigError(f"{' and '.join(given)} are both given; set one of them null")
        if self.path is None and not given:
            keys = ", ".join(f"teacher.{name}" for name in self._architectures())
            raise ConfigError(
                f"teacher.path is null; give the folder of a checkpoint, or an architecture in one of {keys}"
            )

    @property
    def architecture(self) -> ModelConfig | None:
        """The architecture that is asked for, of whichever family; None for whatever config.json says."""
        return next((config for config in self._architectures().values() if config is not None), None)

    def _architectures(self) -> Mapping[str, ModelConfig | None]:
        return {name: getattr(self, name, None) for name in families()}


if TYPE_CHECKING:
    TeacherConfig = TeacherBase
else:
    # `teacher.<family>`: an architecture; one that is given must be what config.json says
    _fields = [(name, Optional[spec.config], field(default=None)) for name, spec in families().items()]  # noqa: UP045
    TeacherConfig = make_dataclass("TeacherConfig", _fields, bases=(TeacherBase,), kw_only=True, slots=True)
    TeacherConfig.__module__ = __name__


def register() -> None:
    """Make the schema of the configuration group `teacher` known to Hydra."""
    register_schema("teacher_schema", TeacherConfig, group="teacher")


def build_random(
    config: ModelConfig, *, device: torch.device, dtype: torch.dtype, generator: torch.Generator, std: float
) -> LanguageModel:
    """A model with random weights, ready for training."""
    model = build(config, dtype=dtype).to_empty(device=device)
    draw_weights(model, generator=generator, std=std)
    return model


class Teacher:
    """The teacher that a configuration names: checked when it is opened, loaded when its model is asked for.

    Attributes:
        folder: where its files are; None for random weights.
        architecture: of the model; a GGUF file is read for it.
    """

    def __init__(
        self, config: TeacherConfig, path: Path | None, *, device: torch.device, generator: torch.Generator
    ) -> None:
        """Open a teacher.

        Args:
            config: which one.
            path: where its files are; None for random weights.
            device: of the weights.
            generator: of random weights.

        Raises:
            CheckpointError: if config.json, or a GGUF file, is missing or damaged.
            ConfigError: for an architecture that is not implemented, or another one than the configuration gives, and
                for a student.
        """
        self.folder = None if path is None else ModelFolder(path)
        self._config = config
        self._device = device
        self._generator = generator
        expected = config.architecture
        if self.folder is None:
            assert expected is not None, "TeacherBase checks it"
            self.architecture = expected
            return
        if self.folder.kind is Kind.student:
            raise ConfigError(
                f"teacher.path={path} is a student; give the folder of its teacher, and from_run to go on from a "
                "student"
            )
        self.architecture = self.folder.architecture
        if expected is not None:
            _refuse_another(self.architecture, expected, self.folder.path)

    @cached_property
    def model(self) -> LanguageModel:
        """The model, frozen and in evaluation mode; on the meta device without its numbers, which `fill` gives it.

        Raises:
            CheckpointError: for weights that are missing, damaged or do not fit config.json.
        """
        dtype = self._config.precision.dtype
        is_empty = self._device.type == "meta"
        if self.folder is not None:
            return self.folder.unloaded(dtype=dtype) if is_empty else self.folder.load(device=self._device, dtype=dtype)
        if is_empty:
            model = build(self.architecture, dtype=dtype)
        else:
            model = build_random(
                self.architecture, device=self._device, dtype=dtype, generator=self._generator, std=_RANDOM_STD
            )
        return model.requires_grad_(False).eval()

    def fill(self, model: LanguageModel) -> None:
        """Give a model from the meta device, once its tensors have memory, what `model` has elsewhere.

        Of tensors that are cut into parts, this process's; all processes that hold parts call this.

        Raises:
            CheckpointError: for weights that are not finite, and files that are gone or damaged by now.
        """
        if self.folder is None:
            draw_parts(model, generator=self._generator, std=_RANDOM_STD)
        else:
            self.folder.fill(model)


def _refuse_another(found: ModelConfig, expected: ModelConfig, path: Path) -> None:
    name = family_of(expected).name
    if type(found) is not type(expected):
        raise ConfigError(
            f"teacher.{name} is given but {path / CONFIG} is of the family {family_of(found).name}; set "
            f"teacher.{name}=null to take every value from the file"
        )
    difference = first_difference(expected, found)
    if difference is not None:
        key, value, other = difference
        raise ConfigError(
            f"teacher.{name}.{key}={value} but {path / CONFIG} says {other}; choose another teacher, or set "
            f"teacher.{name}=null to take every value from the file"
        )
