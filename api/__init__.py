"""Linear heads on state-space models and attention distilled into Mamba-2; `lab.load` opens a model.

Nothing heavy is imported before it is asked for: every command passes through here.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lab.experiments.distill.loaded import LoadedModel, load

__all__ = ["LoadedModel", "load"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("lab.experiments.distill.loaded"), name)
    raise AttributeError(f"module {__name__} has no {name}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
