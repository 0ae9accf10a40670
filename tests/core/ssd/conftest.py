"""The tiers of the chunked SSD operator, and memory that shows when it is read before it is written."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lab.core.ssd import SsdOutput, ssd
from lab.core.ssd.chunked import autograd


@pytest.fixture(params=["native", "torch"])
def operator(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[..., SsdOutput]:
    """The door, with one tier of the chunked implementation behind it."""
    tier = {"native": autograd.NATIVE, "torch": autograd.TORCH}[request.param]
    reason = autograd.choose_tier(torch.device("cpu")).why_not_native
    if tier is autograd.NATIVE and reason is not None:
        pytest.skip(reason)
    monkeypatch.setattr(autograd, "choose_tier", lambda device: autograd.TierChoice(tier, None))

    def call(*args: Tensor, **options: object) -> SsdOutput:
        return ssd(*args, backend="chunked", **options)  # type: ignore[arg-type]

    return call


@pytest.fixture(autouse=True)
def poisoned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """New memory holds NaN, so that whatever is read before it is written shows in the result."""

    def poison(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def made(*args: object, **options: object) -> Tensor:
            tensor = make(*args, **options)
            return tensor.fill_(torch.nan) if tensor.is_floating_point() and not tensor.is_meta else tensor

        return made

    for name in ("empty", "empty_like"):
        monkeypatch.setattr(torch, name, poison(getattr(torch, name)))
    monkeypatch.setattr(Tensor, "new_empty", poison(Tensor.new_empty))
