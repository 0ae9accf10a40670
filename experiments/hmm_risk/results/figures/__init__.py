"""The registry of figures: every file of this folder defines one, as `FIGURE`.

Nothing else lists them: a new file can be selected with `figures=[...]`, and --help shows it.
"""

import importlib
import pkgutil
from typing import TYPE_CHECKING, cast

from lab.core.errors import ConfigError

if TYPE_CHECKING:
    # --help lists the names and must not import numpy
    from lab.experiments.hmm_risk.results.figure_spec import FigureSpec


def figure_names() -> list[str]:
    """The names of all figures, without importing them."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def figure(name: str) -> "FigureSpec":
    """One figure.

    Raises:
        ConfigError: if there is none of this name.
    """
    if name not in figure_names():
        raise ConfigError(f"figures={name}: there is no such figure; choose from {', '.join(figure_names())}")
    return cast("FigureSpec", importlib.import_module(f"{__name__}.{name}").FIGURE)
