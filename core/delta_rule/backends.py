"""Implementations of the gated delta rule in the order of preference."""

from functools import partial
from importlib import import_module

import torch

from lab.core.backends import Backend, Implementation


def _runs_everywhere(device: torch.device, dtype: torch.dtype | None) -> None:
    return None


def _function(module: str, name: str) -> Implementation:
    return getattr(import_module(f"lab.core.delta_rule.{module}"), name)


# the portable ones run everywhere, the references only when asked for
DELTA_RULE = (
    Backend("chunked", _runs_everywhere, partial(_function, "chunked", "gated_delta_rule")),
    Backend("reference", _runs_everywhere, partial(_function, "reference", "gated_delta_rule")),
)
