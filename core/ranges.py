"""Ranges of the numbers in configurations: one check for every key, and the full name of the key in its message."""

import math
import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from lab.core.errors import ConfigError, LabError

if TYPE_CHECKING:
    from omegaconf import DictConfig

Config = TypeVar("Config")

# counts of steps, samples, tokens and the like: a run of a year would not reach it
LARGEST_COUNT = 10**9
# random seeds: NumPy and torch take more, JSON files of other tools do not
LARGEST_SEED = 2**63 - 1


def refuse_outside(
    config: object,
    *names: str,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
    hint: str = "",
) -> None:
    """Refuse fields of a configuration that lie outside a range; a field that is None is left alone.

    Args:
        config: a dataclass.
        names: of fields that hold a number, or a list of numbers.
        at_least: the lowest value.
        above: a bound that the value exceeds, instead of `at_least`.
        at_most: the highest value.
        below: a bound that the value stays under, instead of `at_most`.
        hint: what to do, where it is more than to choose another number.

    Raises:
        ConfigError: naming field, value, range and what to do.
    """
    for name in names:
        value = getattr(config, name)
        for number in value if isinstance(value, list | tuple) else (value,):
            if number is not None:
                _refuse(name, number, at_least, above, at_most, below, hint)


def _refuse(
    name: str,
    number: float,
    at_least: float | None,
    above: float | None,
    at_most: float | None,
    below: float | None,
    hint: str,
) -> None:
    # written so that NaN is outside of every range
    is_high_enough = (at_least is None or number >= at_least) and (above is None or number > above)
    is_low_enough = (at_most is None or number <= at_most) and (below is None or number < below)
    if is_high_enough and is_low_enough:
        return
    words = []
    if at_least is not None or above is not None:
        words.append(f"{at_least:.12g} or more" if at_least is not None else f"above {above:.12g}")
    if at_most is not None or below is not None:
        words.append(f"at most {at_most:.12g}" if at_most is not None else f"below {below:.12g}")
    fix = hint or ("give a number" if math.isnan(number) else "lower it" if is_high_enough else "raise it")
    raise ConfigError(f"{name}={number} must be {' and '.join(words)}; {fix}")


def refuse_not_finite(content: object, key: str = "") -> None:
    """Refuse NaN, infinity, and whole numbers of more than 64 bits anywhere in a configuration.

    Args:
        content: mappings, lists and values.
        key: the full key of `content`.

    Raises:
        ConfigError: naming the first such key.
    """
    if isinstance(content, dict):
        for name, part in content.items():
            refuse_not_finite(part, f"{key}.{name}" if key else str(name))
    elif isinstance(content, list):
        for part in content:
            refuse_not_finite(part, key)
    elif isinstance(content, float) and not math.isfinite(content):
        raise ConfigError(f"{key}={content} must be finite; give a number")
    elif isinstance(content, int) and not -LARGEST_SEED <= content <= LARGEST_SEED:
        raise ConfigError(f"{key} is a whole number of {content.bit_length()} bits, more than 63; give a smaller one")


def to_object(config: "DictConfig", label: str = "") -> Any:
    """OmegaConf's object of a composed configuration; an error of one of its dataclasses names the full key.

    Args:
        config: of a dataclass.
        label: of the configuration, where it is a part of another one.

    Raises:
        LabError: what the `__post_init__` of a dataclass raised.
        OmegaConfBaseException: for a value that is missing or of the wrong type.
    """
    from omegaconf import OmegaConf  # noqa: PLC0415

    try:
        return OmegaConf.to_object(config)
    except LabError as error:
        for path, schema in _parts(config):
            try:
                OmegaConf.to_object(OmegaConf.select(config, path) if path else config)
            except LabError as cause:
                names = {field.name for field in fields(schema)}
                raise type(cause)(f"{label}{': ' * bool(label)}{_with_path(str(cause), path, names)}") from error
        raise


def _parts(config: "DictConfig", path: str = "") -> Iterator[tuple[str, Any]]:
    """The path and the schema of every dataclass of a configuration, parts before the whole."""
    from omegaconf import DictConfig, OmegaConf  # noqa: PLC0415

    for name in map(str, config):
        if OmegaConf.is_missing(config, name) or OmegaConf.is_interpolation(config, name):
            continue
        if isinstance(config[name], DictConfig):
            yield from _parts(config[name], f"{path}.{name}" if path else name)
    schema = OmegaConf.get_type(config)
    if is_dataclass(schema):
        yield path, schema


def _with_path(message: str, path: str, names: set[str]) -> str:
    """A message of a dataclass, which knows its fields and perhaps the end of its path, with the whole path."""
    parts = path.split(".") if path else []
    for start in range(len(parts)):
        end = f"{'.'.join(parts[start:])}."
        if message.startswith(end):
            return ".".join([*parts[:start], message])
    first = re.match(r"\w*", message)
    assert first is not None, "it matches nothing, too"
    return f"{path}.{message}" if parts and first.group() in names else message
