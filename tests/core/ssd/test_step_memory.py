"""A decoding step works in place: what the profiler sees of its memory."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from lab.core.ssd.decode import native
from lab.core.ssd.decode.step import step

BATCH, HEADS, SIZE = 2, 8, 64


def drawn(dtype: torch.dtype) -> tuple[Tensor, list[Tensor]]:
    """A state, and x, dt, A, B and C of a token."""
    generator = torch.Generator().manual_seed(0)
    wide = torch.promote_types(dtype, torch.float32)

    def normal(*shape: int, to: torch.dtype = wide) -> Tensor:
        return torch.randn(*shape, generator=generator).to(to)

    inputs = [normal(BATCH, HEADS, SIZE, to=dtype), normal(BATCH, HEADS), -normal(HEADS).exp()]
    return normal(BATCH, HEADS, SIZE, SIZE), inputs + [normal(BATCH, 2, SIZE, to=dtype) for _ in range(2)]


def allocations(run: Callable[[], object]) -> list[int]:
    """Bytes of every allocation that the profiler sees in a few runs."""
    run()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        for _ in range(3):
            run()
    return [event.self_cpu_memory_usage for event in profiler.events() if event.self_cpu_memory_usage > 0]


def test_the_profiler_sees_an_allocation_where_there_is_one() -> None:
    assert allocations(lambda: torch.empty(1000)) == [4000] * 3


@pytest.mark.usefixtures("compiled_steps")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("are_slices", [False, True], ids=["tensors", "slices"])
def test_a_compiled_step_allocates_nothing(dtype: torch.dtype, are_slices: bool) -> None:
    state, inputs = drawn(dtype)
    y = torch.empty_like(inputs[0])
    if are_slices:
        # as the parts of one projection, which lie apart in a batch
        inputs = [part if part.ndim == 1 else torch.stack([part, part], dim=1)[:, 0] for part in inputs]
        assert not inputs[0].is_contiguous()
    options = {"D": inputs[2], "dt_bias": inputs[2], "dt_softplus": True}
    assert allocations(lambda: step(state, *inputs, **options, out=y)) == []


def test_without_a_compiler_a_step_allocates_little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "_loop", lambda: None)
    state, inputs = drawn(torch.float32)
    sizes = allocations(lambda: step(state, *inputs))
    assert max(sizes) <= inputs[0].nbytes
    assert max(sizes) * 50 < state.nbytes
