"""The registry of sinks, which receive a run's rows besides metrics.jsonl: every file here is one; see `sinks=[NAME]`.

Each module has a class `Sink` without constructor arguments that implements `core.runs.sink.Sink`. Trackers are sinks
too.
"""

import importlib
import pkgutil
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from lab.core.errors import ConfigError
from lab.core.runs.trackers import refuse_missing, tracker_names

if TYPE_CHECKING:
    from lab.core.runs.sink import Sink


def sink_names() -> list[str]:
    """The names of all sinks, trackers among them, without importing them."""
    return sorted([*(module.name for module in pkgutil.iter_modules(__path__)), *tracker_names()])


def refuse_unknown(names: Sequence[str]) -> None:
    """Refuse unknown and repeated names, and trackers that are not installed.

    Raises:
        ConfigError: naming the first.
    """
    for index, name in enumerate(names):
        if name not in sink_names():
            raise ConfigError(f"sinks={name}: there is no such sink; choose from {', '.join(sink_names())}")
        if name in names[:index]:
            raise ConfigError(f"sinks={name}: give each sink once")
        if name in tracker_names():
            try:
                refuse_missing(name)
            except ConfigError as error:
                raise ConfigError(f"sinks={name}: {error}") from None


def new_sink(name: str) -> "Sink":
    """A sink that has not been opened."""
    if name in tracker_names():
        # names of sinks are in `lab --help`, which is to answer at once
        from lab.core.runs.tracker_sink import TrackerSink  # noqa: PLC0415

        return TrackerSink(name)
    return cast("Sink", importlib.import_module(f"{__name__}.{name}").Sink())
