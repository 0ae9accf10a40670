"""Specs that are found by being there: a module defines one under a name that all of its kind share."""

import importlib
import pkgutil
from collections.abc import Sequence
from typing import TypeVar

Spec = TypeVar("Spec")


def specs_in(packages: Sequence[str], variable: str, kind: type[Spec], *, key: str) -> dict[str, Spec]:
    """The specs of packages, in the order of their modules' names.

    Args:
        packages: whose modules are imported.
        variable: the name of a spec in its module.
        kind: the class of specs; an object of another class is none.
        key: the attribute by which a spec is known.
    """
    found: dict[str, Spec] = {}
    for package in packages:
        for module in pkgutil.iter_modules(importlib.import_module(package).__path__, f"{package}."):
            spec = getattr(importlib.import_module(module.name), variable, None)
            if isinstance(spec, kind):
                name = getattr(spec, key)
                assert name not in found, f"two {kind.__name__} are called {name}"
                found[name] = spec
    return found
