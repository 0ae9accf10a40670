"""Compiled loops that no backend of an operator names: why they cannot run here, and what computes in their place."""

from collections.abc import Collection

import torch

from lab.core.divergence import native as divergence
from lab.core.fused import native as fused

_LOOPS = {"divergence": divergence.why_not, "fused": fused.why_not}


def missing_loops(device: torch.device) -> dict[str, str]:
    """The loops that torch does the work of on a CPU, each with the reason; builds those that can be built."""
    reasons = {name: why_not() for name, why_not in _LOOPS.items()} if device.type == "cpu" else {}
    return {name: reason for name, reason in reasons.items() if reason is not None}


def loop_names(device: torch.device, missing: Collection[str]) -> dict[str, str]:
    """What computes each of them, to be recorded."""
    return {name: "native" if device.type == "cpu" and name not in missing else "portable" for name in _LOOPS}
