"""Backends of the gated delta rule and its decoding step."""

import torch

from lab.core.delta_rule.chunked.native import SOURCE
from lab.core.operators.backends import Backend, function, missing_package, runs_everywhere, why_no_kernel


def _why_no_fla(device: torch.device, dtype: torch.dtype | None) -> str | None:
    return why_no_kernel(device, dtype) or missing_package(("fla-core", "triton", "einops"))


OPERATORS: dict[str, tuple[Backend, ...]] = {
    "delta_rule": (
        Backend("fla", _why_no_fla, function("lab.core.delta_rule.fla", "gated_delta_rule")),
        Backend(
            "chunked", runs_everywhere, function("lab.core.delta_rule.chunked.autograd", "gated_delta_rule"), SOURCE
        ),
        Backend("reference", runs_everywhere, function("lab.core.delta_rule.reference", "gated_delta_rule")),
    ),
    "delta_rule_step": (
        Backend("fla", _why_no_fla, function("lab.core.delta_rule.fla", "step")),
        Backend("portable", runs_everywhere, function("lab.core.delta_rule.decode.step", "step_portable")),
        Backend("reference", runs_everywhere, function("lab.core.delta_rule.decode.step", "step_reference")),
    ),
}
