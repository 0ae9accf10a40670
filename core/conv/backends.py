"""Backends of the causal convolution and its decoding step."""

import torch

from lab.core.conv import native
from lab.core.operators.backends import (
    Backend,
    function,
    has_module,
    missing_package,
    runs_everywhere,
    why_no_kernel,
)


def _why_no_causal_conv1d(device: torch.device, dtype: torch.dtype | None) -> str | None:
    reason = why_no_kernel(device, dtype) or missing_package(("causal-conv1d",))
    if reason is None and not has_module("causal_conv1d_cuda"):
        return "causal-conv1d was installed without its CUDA kernels; build it where nvcc is"
    return reason


OPERATORS: dict[str, tuple[Backend, ...]] = {
    "causal_conv": (
        Backend("causal_conv1d", _why_no_causal_conv1d, function("lab.core.conv.causal_conv", "conv_cuda")),
        Backend("portable", runs_everywhere, function("lab.core.conv.blocks", "conv_portable"), native.SOURCE),
        Backend("reference", runs_everywhere, function("lab.core.conv.causal_conv", "conv_reference")),
    ),
    "causal_conv_step": (
        Backend("causal_conv1d", _why_no_causal_conv1d, function("lab.core.conv.causal_conv", "conv_step_cuda")),
        Backend("portable", runs_everywhere, function("lab.core.conv.blocks", "conv_step_portable")),
        Backend("reference", runs_everywhere, function("lab.core.conv.causal_conv", "conv_step_reference")),
    ),
}
