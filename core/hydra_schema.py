"""Register dataclasses as Hydra schemas, and convert composed configurations to validated dataclasses."""

import difflib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields, is_dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from lab.core.errors import ConfigError
from lab.core.ranges import refuse_not_finite, to_object

if TYPE_CHECKING:
    from omegaconf import DictConfig

Config = TypeVar("Config")
Execute: TypeAlias = Callable[["DictConfig", Path, Sequence[str]], float]


def register_schema(name: str, schema: type, *, group: str | None = None) -> None:
    """Store a dataclass under `name`, so that a YAML file can list it first and misspelt keys are refused."""
    # worker processes read configurations and need no Hydra
    from hydra.core.config_store import ConfigStore  # noqa: PLC0415

    ConfigStore.instance().store(name=name, node=schema, group=group)


def with_overrides(config: Config, overrides: object, *, label: str) -> Config:
    """A configuration with some keys changed, checked as a whole: one of several in a run.

    Args:
        config: a dataclass, which stays as it is.
        overrides: nested keys and their values.
        label: what errors call this one, such as curves.NAME.

    Raises:
        LabError: if the overrides are no mapping, or a key or value does not fit.
    """
    from omegaconf import DictConfig, OmegaConf  # noqa: PLC0415
    from omegaconf.errors import OmegaConfBaseException  # noqa: PLC0415

    if not isinstance(overrides, dict):
        raise ConfigError(f"{label}={overrides}: give the keys in which it differs, such as {{KEY: VALUE}}")
    try:
        combined = OmegaConf.merge(OmegaConf.structured(config), overrides)
        assert isinstance(combined, DictConfig), "both are mappings"
        refuse_taken_as_bool(overrides, combined, label)
        merged = to_object(combined, label)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{label}: {str(error).splitlines()[0]}") from error
    assert isinstance(merged, type(config)), "a merge keeps the schema"
    return merged


def refuse_taken_as_bool(given: object, composed: object, key: str) -> None:
    """Refuse numbers and words that OmegaConf takes as true or false, such as qk_norm=3.

    Args:
        given: a value or nested mapping, as it was typed.
        composed: what OmegaConf has made of it.
        key: its full key.

    Raises:
        ConfigError: naming the first such key.
    """
    from omegaconf import DictConfig, OmegaConf  # noqa: PLC0415

    if isinstance(given, dict) and isinstance(composed, DictConfig):
        for name, part in given.items():
            if name in composed and not OmegaConf.is_interpolation(composed, name):
                refuse_taken_as_bool(part, composed[name], f"{key}.{name}")
    elif isinstance(composed, bool) and str(given).lower() != str(composed).lower():
        raise ConfigError(f"{key}={given} must be true or false; write {key}={str(composed).lower()}")


def register_options_resolver() -> None:
    """Make ${options_of:GROUP} the options of a group that ship with the package, as a sweep over all of them.

    `all` is left out: it is what sweeps over the others.
    """
    from omegaconf import OmegaConf  # noqa: PLC0415

    OmegaConf.register_new_resolver("options_of", _options_of, replace=True)


def _options_of(group: str) -> str:
    folder = resources.files("lab.conf").joinpath(group)
    names = (path.name.removesuffix(".yaml") for path in folder.iterdir() if path.name.endswith(".yaml"))
    return ",".join(sorted(name for name in names if name != "all"))


def to_typed(config: "DictConfig", schema: type[Config]) -> Config:
    """The dataclass that a composed configuration describes; its own checks run here.

    Raises:
        LabError: if a value is missing, of the wrong type, not finite, or refused by a check.
    """
    from omegaconf import OmegaConf  # noqa: PLC0415
    from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException  # noqa: PLC0415

    _refuse_unknown_keys(config)
    try:
        refuse_not_finite(OmegaConf.to_container(config, resolve=True))
        typed = to_object(config)
    except MissingMandatoryValue as error:
        raise ConfigError(f"{error.full_key} must be given; write {error.full_key}=VALUE") from error
    except OmegaConfBaseException as error:
        key = f"{error.full_key}: " if getattr(error, "full_key", None) else ""
        raise ConfigError(f"{key}{str(error).splitlines()[0]}") from error
    if not isinstance(typed, schema):
        raise ConfigError(f"the configuration is a {type(typed).__name__}; list the schema of {schema.__name__} first")
    return typed


def resolved(config: "DictConfig") -> dict[str, Any]:
    """A composed configuration as plain values: interpolations are resolved, enums are their names."""
    from omegaconf import OmegaConf  # noqa: PLC0415

    content = OmegaConf.to_container(config, resolve=True, enum_to_str=True)
    assert isinstance(content, dict), "a composed configuration is a mapping"
    return {str(key): value for key, value in content.items()}


def in_run_directory(execute: Execute, config: "DictConfig") -> float:
    """Run a job in the directory that Hydra gives it.

    Args:
        execute: the job: of a composed configuration, a directory, and the overrides as they were typed.
        config: as composed.

    Returns:
        What a sweeper may minimise.
    """
    from hydra.core.hydra_config import HydraConfig  # noqa: PLC0415

    hydra = HydraConfig.get()
    return execute(config, Path(hydra.runtime.output_dir), list(hydra.overrides.task))


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
