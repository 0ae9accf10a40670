"""Backends of the state-space operator and its decoding step."""

import torch

from lab.core.operators.backends import Backend, function, missing_package, runs_everywhere, why_no_kernel
from lab.core.ssd.chunked.native import SOURCE


def _why_no_mamba_ssm(device: torch.device, dtype: torch.dtype | None) -> str | None:
    return why_no_kernel(device, dtype) or missing_package(("mamba-ssm", "triton", "einops"))


OPERATORS: dict[str, tuple[Backend, ...]] = {
    "ssd": (
        Backend("mamba_ssm", _why_no_mamba_ssm, function("lab.core.ssd.mamba_ssm", "ssd")),
        Backend("chunked", runs_everywhere, function("lab.core.ssd.chunked.autograd", "ssd"), SOURCE),
        Backend("reference", runs_everywhere, function("lab.core.ssd.reference", "ssd")),
    ),
    "ssd_step": (
        Backend("mamba_ssm", _why_no_mamba_ssm, function("lab.core.ssd.mamba_ssm", "step")),
        Backend("portable", runs_everywhere, function("lab.core.ssd.decode.step", "step_portable")),
        Backend("reference", runs_everywhere, function("lab.core.ssd.decode.step", "step_reference")),
    ),
}
