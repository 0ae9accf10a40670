"""The registry of sinks, which receive a run's rows besides metrics.jsonl: every file here is one; see `sinks=[NAME]`.

Each module has a class `Sink` without constructor arguments that implements `core.runs.sink.Sink`.
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
    """Refuse unknown and repeated names.

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
