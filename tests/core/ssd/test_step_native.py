"""What the compiled loop of a decoding step reads, and what it leaves alone."""

# Letters: B batch, H heads, G groups, P head_dim, N state_dim.

import platform
import sys
import threading
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lab.core.native import build
from lab.core.ssd.decode import native
from lab.core.ssd.decode.native import advance
from lab.core.ssd.decode.step import step_reference

pytestmark = pytest.mark.usefixtures("compiled_steps")


def drawn(*, batch: int = 2, heads: int = 4, head_dim: int = 5, state_dim: int = 7) -> dict[str, Tensor]:
    """All tensors of a step, with one group for two heads."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    return {
        "state": normal(batch, heads, head_dim, state_dim),
        "x": normal(batch, heads, head_dim),
        "dt": normal(batch, heads),
        "A": -normal(heads).exp(),
        "B": normal(batch, heads // 2, state_dim),
        "C": normal(batch, heads // 2, state_dim),
        "D": normal(heads),
        "dt_bias": normal(heads),
        "y": normal(batch, heads, head_dim),
    }


def advanced(tensors: dict[str, Any]) -> bool:
    """Whether the loop took the step."""
    return advance(**tensors, dt_softplus=True)


@pytest.mark.parametrize("absent", [(), ("D",), ("dt_bias",), ("D", "dt_bias")], ids=str)
def test_parameters_of_a_model_are_read_and_some_may_be_absent(absent: tuple[str, ...]) -> None:
    tensors = drawn()
    given = {
        name: torch.nn.Parameter(tensors[name]) if name in ("A", "D", "dt_bias") else tensors[name] for name in tensors
    }
    given = {name: None if name in absent else tensor for name, tensor in given.items()}
    wide = {name: None if tensor is None else tensor.detach().double() for name, tensor in given.items() if name != "y"}
    wanted = step_reference(**wide, dt_softplus=True)
    assert advanced(given)
    assert torch.allclose(tensors["y"].double(), wanted, rtol=1e-5, atol=1e-5)
    assert torch.allclose(tensors["state"].double(), wide["state"], rtol=1e-5, atol=1e-5)


@pytest.mark.wrong_shapes
@pytest.mark.parametrize("name", list(drawn()))
def test_what_cannot_be_read_is_left_alone(name: str) -> None:
    tensors = drawn()
    tensor = tensors[name]
    emptied = tensor.clone()
    emptied.untyped_storage().resize_(0)
    unreadable = {
        "a number": 1.0,
        "an array": tensor.numpy(),
        "no memory": emptied,
        "a tensor elsewhere": tensor.to("meta"),
        "whole numbers": tensor.int(),
        "other precision": tensor.double(),
        "one axis more": tensor[None],
        "a part": tensor[..., :-1],
        "numbers apart": torch.stack([tensor, tensor], dim=-1)[..., 0],
    }
    if name not in ("D", "dt_bias"):
        unreadable["nothing"] = None
    before = {other: kept.clone() for other, kept in tensors.items()}
    for what, replacement in unreadable.items():
        assert not advanced({**tensors, name: replacement}), what
        for other, kept in tensors.items():
            assert torch.equal(kept, before[other]), (what, other)
    assert advanced(tensors)


@pytest.fixture
def narrow_registers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(build, "_THIS_PROCESSOR", (f"-march={request.param}",))
    build.load_native.cache_clear()
    native._loop.cache_clear()
    yield
    build.load_native.cache_clear()
    native._loop.cache_clear()


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() != "x86_64", reason="the names of the processors are those of x86-64")
@pytest.mark.parametrize("narrow_registers", ["x86-64", "x86-64-v3"], indirect=True)
@pytest.mark.usefixtures("narrow_registers")
def test_registers_of_every_width_compute_the_same() -> None:
    for dtype, state_dim in product((torch.float32, torch.float64), (7, 16, 20, 64, 128)):
        tensors = {name: tensor.to(dtype) for name, tensor in drawn(head_dim=11, state_dim=state_dim).items()}
        wide = {name: tensor.double().clone() for name, tensor in tensors.items() if name != "y"}
        wanted = step_reference(**wide, dt_softplus=True)
        assert advanced(tensors)
        error = 16 * float(torch.finfo(dtype).eps)
        assert torch.allclose(tensors["y"].double(), wanted, rtol=error, atol=error * float(wanted.abs().max()))
        assert torch.allclose(tensors["state"].double(), wide["state"], rtol=error, atol=error)


def test_other_threads_run_during_a_long_step() -> None:
    tensors = drawn(batch=16, heads=16, head_dim=64, state_dim=64)
    assert advanced(tensors)
    count, is_over = 0, threading.Event()

    def work() -> None:
        nonlocal count
        while not is_over.is_set():
            count += 1
            time.sleep(0)  # gives way, so that the step can go on

    other = threading.Thread(target=work)
    interval = sys.getswitchinterval()
    # nobody is asked to give way: the other thread runs only where the step lets it
    sys.setswitchinterval(100)
    try:
        other.start()
        counts = [0]
        # on a machine whose cores are busy, the other thread may not get one during many steps
        deadline = time.monotonic() + 20
        while max(counts) == 0 and time.monotonic() < deadline:
            before = count
            advanced(tensors)
            counts.append(count - before)
    finally:
        is_over.set()
        sys.setswitchinterval(interval)
        other.join()
    assert max(counts) > 0
