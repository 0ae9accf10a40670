"""Choose by label among curves or students, and rename them."""

import difflib
from collections.abc import Mapping, Sequence

from lab.core.errors import ConfigError


def chosen(labels: Sequence[str], wanted: Sequence[str], *, short: Sequence[str] | None = None) -> list[int]:
    """Places of the labels that are wanted, in that order; all of them if none are named.

    Args:
        labels: all there are.
        wanted: each in full, or as in `short`.
        short: the same labels as a legend shows them.

    Raises:
        ConfigError: if there is no such label, naming the nearest one.
    """
    if not wanted:
        return list(range(len(labels)))
    return [place_of(labels, label, short=short) for label in wanted]


def place_of(labels: Sequence[str], wanted: str, *, short: Sequence[str] | None = None) -> int:
    """The place of one label; see `chosen`."""
    for known in (labels, short or ()):
        if list(known).count(wanted) == 1:
            return list(known).index(wanted)
    near = difflib.get_close_matches(wanted, labels, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"choose from {'; '.join(labels)}"
    raise ConfigError(f"{wanted!r}: there is no such curve; {hint}")


def renamed(labels: Sequence[str], changes: Mapping[str, str], *, short: Sequence[str] | None = None) -> list[str]:
    """The labels with some of them changed.

    Raises:
        ConfigError: if there is no such label, or two would be the same.
    """
    result = list(labels)
    for old, new in changes.items():
        result[place_of(labels, old, short=short)] = new
    for label in result:
        if result.count(label) > 1:
            raise ConfigError(f"--label: {result.count(label)} curves would be called {label!r}; name each differently")
    return result
