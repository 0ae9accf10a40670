"""Where a product for CPUs can run."""

from collections.abc import Iterable

import torch


def why_not(device: torch.device, dtype: torch.dtype, dtypes: Iterable[torch.dtype]) -> str | None:
    """Why a product for CPUs that computes some dtypes does not run on a device with one; None if it does."""
    if device.type != "cpu":
        return "it needs a CPU"
    if dtype not in dtypes:
        return f"it computes {' and '.join(map(_name, dtypes))}, not {_name(dtype)}"
    return None


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
