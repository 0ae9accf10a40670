"""The chunked gated delta rule, on memory that shows when it is read before it is written."""

from collections.abc import Callable

import pytest
from torch import Tensor

from lab.core.delta_rule import DeltaRuleOutput, gated_delta_rule


@pytest.fixture
def operator() -> Callable[..., DeltaRuleOutput]:
    """The door, with the chunked implementation behind it."""

    def call(*args: Tensor, **options: object) -> DeltaRuleOutput:
        return gated_delta_rule(*args, backend="chunked", **options)  # type: ignore[arg-type]

    return call


@pytest.fixture(autouse=True)
def always_poisoned(poisoned_memory: None) -> None:
    """Every test of the operator runs on memory that holds NaN."""
