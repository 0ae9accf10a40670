"""Backends of operators: which can run on a device, why the others cannot, how to load one.

All backends of an operator have the same signature. `resolve` picks one when a model is built. A backend requested by
name that cannot run is an error, never a silent fallback.

Each operator's folder lists its backends in `backends.py`, as `OPERATORS`; `operators` finds them there.
"""

import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch

from lab.core.errors import BackendError
from lab.core.native.build import load_native
from lab.core.runs.provenance import installed_version

Implementation = Callable[..., Any]
WhyNot = Callable[[torch.device, torch.dtype | None], str | None]


@dataclass(frozen=True, slots=True, eq=False)
class Backend:
    """One implementation of an operator; compared by identity, so it is a cheap cache key.

    Attributes:
        name: its name in configurations.
        why_not: given device and dtype (None: any supported one), returns None if it can run, else the reason and the
            fix. Checks the device and the installed packages without importing them.
        load: imports and returns the function.
        source: file of core/native/src that it runs on a CPU where that can be compiled, and torch's operations
            elsewhere, with other last digits; None for one that does not depend on a compiler.
    """

    name: str
    why_not: WhyNot
    load: Callable[[], Implementation]
    source: str | None = None

    def why_not_compiled(self, device: torch.device) -> str | None:
        """Why torch does the work of its compiled loop on this device; None if nothing is missing. Builds the loop."""
        if self.source is None or device.type != "cpu":
            return None
        return load_native(self.source).why_not


@dataclass(frozen=True, slots=True)
class BackendChoice:
    """What `auto` means for one operator on one device.

    Attributes:
        operator: its name.
        chosen: name of the backend.
        rejected: the backends that would have been preferred, each with the reason.
    """

    operator: str
    chosen: str
    rejected: tuple[tuple[str, str], ...]


@cache
def operators() -> dict[str, tuple[Backend, ...]]:
    """The backends of every operator by name, in order of preference.

    Every operator has one that runs everywhere, and a `reference` that is used only on request.
    """
    found: dict[str, tuple[Backend, ...]] = {}
    core = import_module("lab.core")
    for folder in pkgutil.iter_modules(core.__path__, "lab.core."):
        if folder.ispkg and folder.name != __package__ and find_spec(f"{folder.name}.backends") is not None:
            found |= import_module(f"{folder.name}.backends").OPERATORS
    return found


def resolve(
    operator: str, requested: "str | Backend", device: torch.device, dtype: torch.dtype | None = None
) -> Backend:
    """The backend to use.

    Args:
        operator: a key of `operators()`.
        requested: "auto" for the first one that can run (never the reference), a name, or an already resolved backend.
        device: of the tensors.
        dtype: of the tensors, if known.

    Raises:
        BackendError: if the requested one does not exist or cannot run there.
    """
    if operator not in operators():
        raise BackendError(f"operator={operator!r} has no implementation; choose from {', '.join(operators())}")
    backends = operators()[operator]
    if requested == "auto":
        # the portable backend runs everywhere, so this always finds one
        return next(backend for backend in _automatic(operator) if backend.why_not(device, dtype) is None)
    if isinstance(requested, str):
        named = [backend for backend in backends if backend.name == requested]
        if not named:
            known = ", ".join(["auto", *(backend.name for backend in backends)])
            raise BackendError(f"{operator} backend={requested!r} does not exist; choose from {known}")
        (requested,) = named
    reason = requested.why_not(device, dtype)
    if reason is not None:
        usable = ", ".join(["auto", *(other.name for other in backends if other.why_not(device, dtype) is None)])
        raise BackendError(
            f"{operator} backend={requested.name!r} cannot run on {device}: {reason}; use one of {usable}"
        )
    return requested


def report(device: torch.device) -> list[BackendChoice]:
    """What `auto` chooses on this device for every operator, and why it rejects the others."""
    choices = []
    for operator in operators():
        reasons = [(backend.name, backend.why_not(device, None)) for backend in _automatic(operator)]
        chosen = next(name for name, reason in reasons if reason is None)
        rejected = tuple((name, reason) for name, reason in reasons if reason is not None)
        choices.append(BackendChoice(operator, chosen, rejected))
    return choices


def _automatic(operator: str) -> tuple[Backend, ...]:
    return tuple(backend for backend in operators()[operator] if backend.name != "reference")


def runs_everywhere(device: torch.device, dtype: torch.dtype | None) -> None:
    """`why_not` of a pure torch backend."""
    return None


def why_no_kernel(device: torch.device, dtype: torch.dtype | None) -> str | None:
    """Why a GPU kernel that accumulates in float32 cannot run on this device with this dtype; None if it can."""
    if device.type != "cuda":
        return "it needs a CUDA device"
    if dtype is not None and dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return f"it computes in float32, not {str(dtype).removeprefix('torch.')}; cast the tensors to float32"
    return None


@cache
def missing_package(distributions: tuple[str, ...]) -> str | None:
    """A sentence naming the distributions that are not installed; None if all are."""
    missing = [name for name in distributions if installed_version(name) is None]
    if not missing:
        return None
    verb, what = ("is", "it") if len(missing) == 1 else ("are", "them")
    return f"{' and '.join(missing)} {verb} not installed; `lab doctor` says how to add {what}"


@cache
def has_module(name: str) -> bool:
    """Whether a module can be found, without importing it."""
    return find_spec(name) is not None


def function(module: str, name: str) -> Callable[[], Implementation]:
    """A loader for `Backend.load`: imports the module when it is called."""
    return partial(_function, module, name)


def _function(module: str, name: str) -> Implementation:
    return getattr(import_module(module), name)
