"""Variants of a mixer, as a configuration states them."""

from dataclasses import dataclass, fields
from typing import Any


@dataclass(kw_only=True, slots=True)
class MixerOptions:
    """Base of the schemas of the configuration group `student/mixer`; every mixer has a subclass."""

    kind: str = ""
    """Which mixer."""
    kernels: Any = None
    """Implementation of each operator: `auto`, or a name that `lab doctor` lists."""

    def changed(self) -> dict[str, object]:
        """The options that differ from the mixer's defaults and belong to the model: not which kernels compute it."""
        return {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if field.name not in ("kind", "kernels") and getattr(self, field.name) != field.default
        }
