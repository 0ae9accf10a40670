"""Options of a mixer, as written in a configuration."""

from dataclasses import dataclass, fields
from typing import Any


@dataclass(kw_only=True, slots=True)
class MixerOptions:
    """Base of the schemas of the configuration group `student/mixer`; every mixer has a subclass."""

    kind: str = ""
    """Which mixer."""
    kernels: Any = None
    """Backend of each operator: `auto`, or a name listed by `lab doctor`."""

    @property
    def states_per_head(self) -> int:
        """R, recurrences of each head of attention."""
        return 1

    def changed(self) -> dict[str, object]:
        """The non-default options that define the model; excludes the choice of kernels."""
        return {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if field.name not in ("kind", "kernels") and getattr(self, field.name) != field.default
        }
