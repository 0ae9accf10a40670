"""The registry of heads: every file of this folder defines one, described by its `HEAD`.

Nothing else lists them: to add one, add a file here and conf/head/<name>.yaml; `head=<name>` selects it.
"""

import importlib
import pkgutil
from collections.abc import Mapping
from functools import cache
from typing import Any

from lab.core.hydra_schema import register_schema
from lab.experiments.hmm_risk.head_spec import HeadSpec


@cache
def heads() -> Mapping[str, HeadSpec]:
    """Every head by name."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    return {name: importlib.import_module(f"{__name__}.{name}").HEAD for name in names}


def head_name(options: Any) -> str:
    """The head to which options belong."""
    return next(name for name, spec in heads().items() if type(options) is spec.options)


def register() -> None:
    """Store the schema of every head's options, as `<name>_head_schema` of the group `head`."""
    for name, spec in heads().items():
        register_schema(f"{name}_head_schema", spec.options, group="head")
