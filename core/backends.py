"""Implementations of the state-space operators: which can run on a device, why the others cannot, how to load one.

An operator has several implementations of one signature. `resolve` picks one, once, when a model is built; a choice
that was made by name and cannot run is an error with the cure, never another implementation in silence.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch

from lab.core.errors import BackendError
from lab.core.provenance import installed_version

Implementation = Callable[..., Any]
WhyNot = Callable[[torch.device, torch.dtype | None], str | None]


@dataclass(frozen=True, slots=True, eq=False)
class Backend:
    """One implementation of an operator; equal to itself alone, which makes it a quick key.

    Attributes:
        name: what a configuration calls it.
        why_not: None if it can run on this device with this dtype (None: any that it knows), else the reason and the
            cure. Looks at the device and at what is installed, and imports nothing.
        load: the function itself; its imports happen here.
    """

    name: str
    why_not: WhyNot
    load: Callable[[], Implementation]


@dataclass(frozen=True, slots=True)
class Choice:
    """What `auto` means for one operator on one device.

    Attributes:
        operator: its name.
        chosen: name of the implementation.
        rejected: the implementations that would have been preferred, each with the reason.
    """

    operator: str
    chosen: str
    rejected: tuple[tuple[str, str], ...]


def resolve(
    operator: str, requested: "str | Backend", device: torch.device, dtype: torch.dtype | None = None
) -> Backend:
    """The implementation to use.

    Args:
        operator: a key of `OPERATORS`.
        requested: "auto" for the first that can run and is no reference, a name, or an implementation that was
            resolved before.
        device: of the tensors.
        dtype: of the tensors, if it is known.

    Raises:
        BackendError: if the one that was asked for does not exist or cannot run there.
    """
    if operator not in OPERATORS:
        raise BackendError(f"operator={operator!r} has no implementation; choose from {', '.join(OPERATORS)}")
    backends = OPERATORS[operator]
    if requested == "auto":
        # the portable implementation runs everywhere, so there is always a first one
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


def report(device: torch.device) -> list[Choice]:
    """What `auto` would choose on this device for every operator, and why it passes over the others."""
    choices = []
    for operator in OPERATORS:
        reasons = [(backend.name, backend.why_not(device, None)) for backend in _automatic(operator)]
        chosen = next(name for name, reason in reasons if reason is None)
        rejected = tuple((name, reason) for name, reason in reasons if reason is not None)
        choices.append(Choice(operator, chosen, rejected))
    return choices


def _automatic(operator: str) -> tuple[Backend, ...]:
    return tuple(backend for backend in OPERATORS[operator] if backend.name != "reference")


def _runs_everywhere(device: torch.device, dtype: torch.dtype | None) -> None:
    return None


def _why_no_mamba_ssm(device: torch.device, dtype: torch.dtype | None) -> str | None:
    return _why_no_kernel(device, dtype) or _missing_package(("mamba-ssm", "triton", "einops"))


def _why_no_causal_conv1d(device: torch.device, dtype: torch.dtype | None) -> str | None:
    missing = _why_no_kernel(device, dtype) or _missing_package(("causal-conv1d",))
    if missing is None and not _has_module("causal_conv1d_cuda"):
        return "causal-conv1d was installed without its CUDA kernels; build it where nvcc is"
    return missing


def _why_no_kernel(device: torch.device, dtype: torch.dtype | None) -> str | None:
    if device.type != "cuda":
        return "it needs a CUDA device"
    if dtype is not None and dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return f"it computes in float32, not {str(dtype).removeprefix('torch.')}; cast the tensors to float32"
    return None


@cache
def _missing_package(distributions: tuple[str, ...]) -> str | None:
    missing = [name for name in distributions if installed_version(name) is None]
    if not missing:
        return None
    verb, what = ("is", "it") if len(missing) == 1 else ("are", "them")
    return f"{' and '.join(missing)} {verb} not installed; `lab doctor` says how to add {what}"


@cache
def _has_module(name: str) -> bool:
    return find_spec(name) is not None


def _function(module: str, name: str) -> Implementation:
    return getattr(import_module(module), name)


def _from(module: str, name: str) -> Callable[[], Implementation]:
    return partial(_function, f"lab.core.ssd.{module}", name)


# in the order of preference; the portable one runs everywhere, the reference only when asked for
OPERATORS: dict[str, tuple[Backend, ...]] = {
    "ssd": (
        Backend("mamba_ssm", _why_no_mamba_ssm, _from("mamba_ssm", "ssd")),
        Backend("chunked", _runs_everywhere, _from("chunked", "ssd")),
        Backend("reference", _runs_everywhere, _from("reference", "ssd")),
    ),
    "ssd_step": (
        Backend("mamba_ssm", _why_no_mamba_ssm, _from("mamba_ssm", "step")),
        Backend("portable", _runs_everywhere, _from("step", "step_portable")),
        Backend("reference", _runs_everywhere, _from("step", "step_reference")),
    ),
    "causal_conv": (
        Backend("causal_conv1d", _why_no_causal_conv1d, _from("conv", "conv_cuda")),
        Backend("portable", _runs_everywhere, _from("conv_blocks", "conv_portable")),
        Backend("reference", _runs_everywhere, _from("conv", "conv_reference")),
    ),
    "causal_conv_step": (
        Backend("causal_conv1d", _why_no_causal_conv1d, _from("conv", "conv_step_cuda")),
        Backend("portable", _runs_everywhere, _from("conv_blocks", "conv_step_portable")),
        Backend("reference", _runs_everywhere, _from("conv", "conv_step_reference")),
    ),
}

# last: the folder of an operator takes `Backend` from here
from lab.core.delta_rule.backends import DELTA_RULE, DELTA_RULE_STEP  # noqa: E402

OPERATORS |= {"delta_rule": DELTA_RULE, "delta_rule_step": DELTA_RULE_STEP}
