"""The registry of trackers, to which the rows of a run can be passed on: every file here is one.

Each module is named as the package that it needs, and has a class `Tracker` that implements `core.runs.track.Tracker`.
They run in a separate process, so that none can hold up or end a run.
"""

import importlib
import pkgutil
from importlib.util import find_spec
from typing import TYPE_CHECKING, cast

from lab.core.errors import ConfigError

if TYPE_CHECKING:
    from lab.core.runs.track import Tracker


def tracker_names() -> list[str]:
    """The names of all trackers, without importing them."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def refuse_missing(name: str) -> None:
    """Refuse a tracker whose package is not installed.

    Raises:
        ConfigError: naming the package.
    """
    if find_spec(name) is None:
        raise ConfigError(f"{name} is not installed; pip install {name}")


def new_tracker(name: str) -> "Tracker":
    """A tracker that has not been opened."""
    return cast("Tracker", importlib.import_module(f"{__name__}.{name}").Tracker())
