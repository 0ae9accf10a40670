"""Register dataclasses as Hydra schemas, and convert composed configurations to validated dataclasses."""

import difflib
from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, TypeVar

from lab.core.errors import ConfigError

if TYPE_CHECKING:
    from omegaconf import DictConfig

Config = TypeVar("Config")


def register_schema(name: str, schema: type, *, group: str | None = None) -> None:
    """Store a dataclass under `name`, so that a YAML file can list it first and misspelt keys are refused."""
    # worker processes read configurations and need no Hydra
    from hydra.core.config_store import ConfigStore  # noqa: PLC0415

    ConfigStore.instance().store(name=name, node=schema, group=group)


def to_typed(config: "DictConfig", schema: type[Config]) -> Config:
    """The dataclass that a composed configuration describes; its own checks run here.

    Raises:
        ConfigError: if a value is missing, of the wrong type, or refused by a check.
    """
    from omegaconf import OmegaConf  # noqa: PLC0415
    from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException  # noqa: PLC0415

    _refuse_unknown_keys(config)
    try:
        typed = OmegaConf.to_object(config)
    except MissingMandatoryValue as error:
        raise ConfigError(f"{error.full_key} must be given; write {error.full_key}=VALUE") from error
    except OmegaConfBaseException as error:
        key = f"{error.full_key}: " if getattr(error, "full_key", None) else ""
        raise ConfigError(f"{key}{str(error).splitlines()[0]}") from error
    if not isinstance(typed, schema):
        raise ConfigError(f"the configuration is a {type(typed).__name__}; list the schema of {schema.__name__} first")
    return typed


def did_you_mean(key: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown key: the keys that look like it, and where all of them are listed."""
    close = difflib.get_close_matches(key, list(known), n=3)
    return f"; did you mean {' or '.join(close)}? (--help lists all keys)" if close else "; --help lists all keys"


def _refuse_unknown_keys(config: "DictConfig", prefix: str = "") -> None:
    """Reject keys that were added (+KEY=VALUE) to a part of the configuration that has a schema."""
    from omegaconf import DictConfig, OmegaConf  # noqa: PLC0415

    schema = OmegaConf.get_type(config)
    known = {field.name for field in fields(schema)} if is_dataclass(schema) else None
    for key in map(str, config):
        if known is not None and key not in known:
            raise ConfigError(f"{prefix}{key}: unknown key{did_you_mean(key, known)}")
        if (
            not OmegaConf.is_missing(config, key)
            and not OmegaConf.is_interpolation(config, key)
            and isinstance(config[key], DictConfig)
        ):
            _refuse_unknown_keys(config[key], f"{prefix}{key}.")
