"""Architectures of conf/teacher, and the same ones with fewer layers."""

import dataclasses
from importlib.resources import files
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from lab.core.errors import ConfigError
from lab.core.hydra_schema import to_typed
from lab.core.models.config import DecoderConfig, ModelConfig
from lab.core.models.families import TeacherConfig

_FOLDER = files("lab.conf").joinpath("teacher")


def architecture_of(teacher: str) -> ModelConfig:
    """The architecture in conf/teacher/TEACHER.yaml.

    Raises:
        ConfigError: if there is no such file, or it leaves the architecture to a checkpoint.
    """
    names = {path.name.removesuffix(".yaml") for path in _FOLDER.iterdir() if path.name.endswith(".yaml")}
    if teacher not in names:
        raise ConfigError(f"teacher={teacher}: choose from {', '.join(sorted(names))}")
    text = OmegaConf.create(_FOLDER.joinpath(f"{teacher}.yaml").read_text())
    assert isinstance(text, DictConfig), "the file is a mapping"
    del text["defaults"]
    # files without an architecture have a path that must be given
    text.path = None
    merged = OmegaConf.merge(OmegaConf.structured(TeacherConfig), text)
    architecture = to_typed(cast(DictConfig, merged), TeacherConfig).architecture
    assert architecture is not None, "TeacherConfig checks it"
    return architecture


def with_layers(config: ModelConfig, num_layers: int) -> ModelConfig:
    """The same architecture with so many layers in all, shared out among its stacks as they are now.

    Raises:
        ConfigError: if a stack would have no layer, or there would be more layers than now.
    """
    sizes = [decoder.num_layers for decoder in config.decoders]
    if not len(sizes) <= num_layers <= sum(sizes):
        raise ConfigError(f"layers={num_layers} must lie in {len(sizes)} .. {sum(sizes)}, the model's")
    left = [max(1, size * num_layers // sum(sizes)) for size in sizes[:-1]]
    counts = iter([*left, num_layers - sum(left)])
    return cast(ModelConfig, _counted(config, counts))


def _counted(config: Any, counts: Any) -> Any:
    """`config`, or every decoder that it has as a field in order, with the next number of layers."""
    if isinstance(config, DecoderConfig):
        return dataclasses.replace(config, num_layers=next(counts))
    stacks = {
        field.name: _counted(value, counts)
        for field in dataclasses.fields(config)
        if isinstance(value := getattr(config, field.name), DecoderConfig)
    }
    return dataclasses.replace(config, **stacks)
