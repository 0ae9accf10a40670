"""Nested keys as they are typed on the command line, with dots between them: `teacher.path`."""

from collections.abc import Mapping
from typing import Any


def by_dotted_key(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The values of nested mappings by dotted keys, in their order.

    A list is one value, as it is on the command line. So is a mapping without keys: it would be lost otherwise.
    """
    found: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping) and value:
            found |= {f"{name}.{key}": part for key, part in by_dotted_key(value).items()}
        else:
            found[f"{name}"] = value
    return found
