"""Memory that shows when it is read before it is written, and whether the loops of decoding steps run here."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lab.core.delta_rule.decode import native as delta_rule
from lab.core.native import build
from lab.core.ssd.decode import native as ssd


@pytest.fixture
def poisoned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """New memory holds NaN, so that whatever is read before it is written shows in the result."""

    def poison(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def made(*args: object, **options: object) -> Tensor:
            tensor = make(*args, **options)
            if tensor.is_floating_point() and not tensor.is_meta:
                # a leaf too: checkpointing in torch 2.7 makes one that requires a gradient
                with torch.no_grad():
                    tensor.fill_(torch.nan)
            return tensor

        return made

    for name in ("empty", "empty_like"):
        monkeypatch.setattr(torch, name, poison(getattr(torch, name)))
    monkeypatch.setattr(Tensor, "new_empty", poison(Tensor.new_empty))


@pytest.fixture(scope="session")
def compiled_steps() -> None:
    """For tests of the compiled loops of decoding steps: where they cannot run, a test is skipped and says why."""
    if build.find_compiler() is None:
        pytest.skip("there is no C++ compiler")
    if torch.__version__ < (2, 10):
        pytest.skip(f"torch {torch.__version__} has no way to hand tensors to C++, torch 2.10 has: steps run in torch")
    for native in (ssd, delta_rule):
        assert native._loop() is not None
