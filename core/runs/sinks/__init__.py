"""Where the rows of a run go besides metrics.jsonl: every file of this folder is a sink, chosen by `sinks=[NAME]`.

A module has a class `Sink` with the methods of `core.runs.sink.Sink` and no arguments. Nothing else lists it.
"""

import importlib
import pkgutil
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from lab.core.errors import ConfigError

if TYPE_CHECKING:
    from lab.core.runs.sink import Sink


def sink_names() -> list[str]:
    """The names of all sinks, without importing them."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def refuse_unknown(names: Sequence[str]) -> None:
    """Refuse names that no sink has, and repeated ones.

    Raises:
        ConfigError: naming the first.
    """
    for index, name in enumerate(names):
        if name not in sink_names():
            raise ConfigError(f"sinks={name}: there is no such sink; choose from {', '.join(sink_names())}")
        if name in names[:index]:
            raise ConfigError(f"sinks={name}: give each sink once")


def new_sink(name: str) -> "Sink":
    """A sink that has not been opened."""
    return cast("Sink", importlib.import_module(f"{__name__}.{name}").Sink())
