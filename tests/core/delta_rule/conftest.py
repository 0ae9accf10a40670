"""The tiers of the chunked gated delta rule, on memory that shows when it is read before it is written."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lab.core.delta_rule import DeltaRuleOutput, gated_delta_rule
from lab.core.delta_rule.chunked import autograd


@pytest.fixture(params=["native", "torch"])
def operator(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[..., DeltaRuleOutput]:
    """The door, with one tier of the chunked implementation behind it."""
    tier = {"native": autograd.NATIVE, "torch": autograd.TORCH}[request.param]
    reason = autograd.choose_tier(torch.device("cpu")).why_not_native
    if tier is autograd.NATIVE and reason is not None:
        pytest.skip(reason)
    monkeypatch.setattr(autograd, "choose_tier", lambda device: autograd.TierChoice(tier, None))

    def call(*args: Tensor, **options: object) -> DeltaRuleOutput:
        return gated_delta_rule(*args, backend="chunked", **options)  # type: ignore[arg-type]

    return call


@pytest.fixture(autouse=True)
def always_poisoned(poisoned_memory: None) -> None:
    """Every test of the operator runs on memory that holds NaN."""
