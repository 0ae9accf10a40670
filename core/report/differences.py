"""Where the configurations of runs differ: for each key, its values and the runs that have them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lab.core.runs.compare import differing_keys

# of runs with the usual value, each by its name
_MOST_NAMED = 2


@dataclass(frozen=True, slots=True)
class Difference:
    """A key with more than one value.

    Attributes:
        key: with dots.
        values: for each value, as JSON, the names of its runs, or how many they are.
    """

    key: str
    values: Mapping[str, Sequence[str]]


def _abridged(values: Mapping[str, Sequence[str]], total: int) -> dict[str, Sequence[str]]:
    """The runs of each value; those of a value that most have are only counted, behind the others."""
    usual = max(values, key=lambda value: len(values[value]))
    if 2 * len(values[usual]) <= total or len(values[usual]) <= _MOST_NAMED:
        return dict(values)
    others = {value: names for value, names in values.items() if value != usual}
    return {**others, usual: [f"the other {len(values[usual])}"]}


def differences(configs: Mapping[str, Mapping[str, Any]]) -> list[Difference]:
    """The keys in which configurations differ, in the order in which they first stand.

    Args:
        configs: by the names of the runs.
    """
    found = []
    for key, of_runs in differing_keys(list(configs.values())):
        values: dict[str, list[str]] = {}
        for name, value in zip(configs, of_runs, strict=True):
            values.setdefault(json.dumps(value, ensure_ascii=False, default=str), []).append(name)
        found.append(Difference(key, _abridged(values, len(configs))))
    return found
