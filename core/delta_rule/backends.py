"""Implementations of the gated delta rule and of its decoding step, in the order of preference."""

from functools import partial
from importlib import import_module

import torch

from lab.core.backends import Backend, Implementation
from lab.core.provenance import installed_version

_FLA_PACKAGES = ("fla-core", "triton", "einops")
_FLA_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def why_no_fla(device: torch.device, dtype: torch.dtype | None) -> str | None:
    """None if flash-linear-attention's kernels can run on this device with this dtype, else the reason and the cure."""
    if device.type != "cuda":
        return "it needs a CUDA device"
    if dtype is not None and dtype not in _FLA_DTYPES:
        return f"it computes in float32, not {str(dtype).removeprefix('torch.')}; cast the tensors to float32"
    missing = [name for name in _FLA_PACKAGES if installed_version(name) is None]
    if missing:
        return f"not installed: {', '.join(missing)}; pip install {' '.join(missing)}"
    return None


def _runs_everywhere(device: torch.device, dtype: torch.dtype | None) -> None:
    return None


def _function(module: str, name: str) -> Implementation:
    return getattr(import_module(f"lab.core.delta_rule.{module}"), name)


# the portable ones run everywhere, the references only when asked for
DELTA_RULE = (
    Backend("fla", why_no_fla, partial(_function, "fla", "gated_delta_rule")),
    Backend("chunked", _runs_everywhere, partial(_function, "chunked", "gated_delta_rule")),
    Backend("reference", _runs_everywhere, partial(_function, "reference", "gated_delta_rule")),
)
DELTA_RULE_STEP = (
    Backend("fla", why_no_fla, partial(_function, "fla", "step")),
    Backend("portable", _runs_everywhere, partial(_function, "step", "step_portable")),
    Backend("reference", _runs_everywhere, partial(_function, "step", "step_reference")),
)
