"""The official kernels agree with the definition in float64, on a GPU.

The same tests run on the CPU under Triton's interpreter: see test_mamba_ssm_interpreted.py, which starts them.
"""

import os
from collections.abc import Iterator
from contextlib import nullcontext
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from lab.core.errors import BackendError
from lab.core.operators.backends import operators, resolve
from lab.core.ssd import SsdOutput, mamba_ssm, ssd
from lab.core.ssd.decode.step import step, step_portable

IS_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
# On a GPU float32 products are rounded to TF32's 10 bits. Largest error relative to the largest number; gradients sum
# over more of them.
TOLERANCES = {torch.float32: 2e-6 if IS_INTERPRETED else 3e-3, torch.float16: 3e-3, torch.bfloat16: 2e-2}
GRADIENT_FACTOR = 3
STEP_TOLERANCES = {torch.float32: 5e-6, torch.bfloat16: 8e-3}

# the interpreter multiplies matrices of bfloat16 as if their bits were whole numbers
DTYPES = [torch.float32, torch.float16] + ([] if IS_INTERPRETED else [torch.bfloat16])

# a GPU takes chunks and sequences of a usual length
CHUNK = 16 if IS_INTERPRETED else 64
LENGTH = CHUNK * 5 // 2
PACKED = [0, LENGTH // 6, LENGTH // 6, 3 * LENGTH // 4, LENGTH]

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.filterwarnings("ignore:Deterministic mode:UserWarning"),
    pytest.mark.skipif(
        any(find_spec(name) is None for name in ("mamba_ssm", "triton", "einops")),
        reason="mamba-ssm, triton or einops is not installed; `lab doctor` says how to add them",
    ),
    pytest.mark.skipif(not IS_INTERPRETED and not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    if not IS_INTERPRETED:
        yield torch.device("cuda")
        return
    # the kernels' launchers ask for the current device and its processors
    monkeypatch.setattr(torch.cuda, "device", lambda index: nullcontext())
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(multi_processor_count=2))
    yield torch.device("cpu")


def drawn(
    device: torch.device,
    dtype: torch.dtype,
    *,
    batch: int = 1,
    tokens: int = LENGTH,
    heads: int = 4,
    groups: int = 2,
    size: int = 16,
    states: int | None = None,
) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int, to: torch.dtype = torch.float32) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device, to)

    return {
        "x": normal(batch, tokens, heads, size, to=dtype),
        "dt": normal(batch, tokens, heads),
        "A": -normal(heads).exp(),
        "B": normal(batch, tokens, groups, size, to=dtype),
        "C": normal(batch, tokens, groups, size, to=dtype),
        "D": normal(heads),
        "dt_bias": normal(heads),
        "initial_state": normal(states or batch, heads, size, size),
    }


def run(inputs: dict[str, Tensor], **options: Any) -> SsdOutput:
    named = dict(inputs)
    first = [named.pop(name) for name in ("x", "dt", "A", "B", "C")]
    return mamba_ssm.ssd(*first, **named, dt_softplus=True, chunk_size=CHUNK, **options)


def definition(inputs: dict[str, Tensor], cu_seqlens: Tensor | None = None) -> tuple[SsdOutput, dict[str, Tensor]]:
    """The recurrence in float64 on the CPU, and its leaves."""
    leaves = {name: tensor.detach().double().cpu().requires_grad_() for name, tensor in inputs.items()}
    named = dict(leaves)
    first = [named.pop(name) for name in ("x", "dt", "A", "B", "C")]
    return ssd(*first, **named, dt_softplus=True, cu_seqlens=cu_seqlens, backend="reference"), leaves


def difference(found: Tensor, wanted: Tensor) -> float:
    found, wanted = found.detach().double().cpu(), wanted.detach()
    return float((found - wanted).abs().max() / wanted.abs().max())


def check_outputs_and_gradients(inputs: dict[str, Tensor], starts: list[int] | None = None) -> None:
    tolerance = TOLERANCES[inputs["x"].dtype]
    leaves = {name: tensor.requires_grad_() for name, tensor in inputs.items()}
    cu_seqlens = None if starts is None else torch.tensor(starts)
    found = run(leaves, cu_seqlens=None if cu_seqlens is None else cu_seqlens.to(inputs["x"].device))
    wanted, wide = definition(inputs, cu_seqlens)
    assert found.y.dtype == inputs["x"].dtype
    assert found.final_state.dtype == torch.float32
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(part.shape, generator=generator, dtype=torch.float64) for part in wanted]
    for part, exact in zip(found, wanted, strict=True):
        assert difference(part, exact) < tolerance
    loss = sum((part * weight.to(part)).sum() for part, weight in zip(found, weights, strict=True))
    exact_loss = sum((part * weight).sum() for part, weight in zip(wanted, weights, strict=True))
    gradients = torch.autograd.grad(loss, list(leaves.values()))
    exact_gradients = torch.autograd.grad(exact_loss, list(wide.values()))
    errors = {
        name: difference(gradient, exact)
        for name, gradient, exact in zip(leaves, gradients, exact_gradients, strict=True)
    }
    assert max(errors.values()) < GRADIENT_FACTOR * tolerance, errors


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_outputs_and_gradients_of_all_inputs_are_those_of_the_definition(
    device: torch.device, dtype: torch.dtype
) -> None:
    check_outputs_and_gradients(drawn(device, dtype, batch=2, tokens=LENGTH - 3))


def test_a_skip_per_channel_and_no_initial_state(device: torch.device) -> None:
    inputs = drawn(device, torch.float32, tokens=LENGTH - 7, heads=2, groups=1)
    del inputs["initial_state"], inputs["dt_bias"]
    inputs["D"] = torch.randn(2, 16, generator=torch.Generator().manual_seed(2)).to(device)
    check_outputs_and_gradients(inputs)


@pytest.mark.parametrize("dtype", DTYPES if not IS_INTERPRETED else [torch.float32], ids=str)
@pytest.mark.parametrize("has_initial_state", [False, True])
def test_packed_sequences_are_those_of_the_definition(
    device: torch.device, dtype: torch.dtype, has_initial_state: bool
) -> None:
    inputs = drawn(device, dtype, states=len(PACKED) - 1)
    if not has_initial_state:
        del inputs["initial_state"]
    check_outputs_and_gradients(inputs, PACKED)


@pytest.mark.parametrize("chunk_size", [1, 24, None])
def test_any_chunk_size_is_taken(device: torch.device, chunk_size: int | None) -> None:
    inputs = drawn(device, torch.float32, tokens=20)
    named = dict(inputs)
    first = [named.pop(name) for name in ("x", "dt", "A", "B", "C")]
    with torch.no_grad():
        found = mamba_ssm.ssd(*first, **named, dt_softplus=True, chunk_size=chunk_size)
    wanted, _ = definition(inputs)
    assert difference(found.y, wanted.y) < TOLERANCES[torch.float32]


def test_no_tokens_leave_the_state_as_it_was(device: torch.device) -> None:
    inputs = drawn(device, torch.float32, tokens=0)
    found = run(inputs)
    assert found.y.shape == (1, 0, 4, 16)
    assert torch.equal(found.final_state, inputs["initial_state"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("options", ["plain", "all"])
def test_a_step_is_that_of_the_definition(device: torch.device, dtype: torch.dtype, options: str) -> None:
    inputs = drawn(device, dtype, batch=2, tokens=1)
    inputs["dt"] = inputs["dt"].abs()
    state, wanted_state = inputs["initial_state"].clone(), inputs["initial_state"].clone().cpu()
    token = [inputs["x"][:, 0], inputs["dt"][:, 0], inputs["A"], inputs["B"][:, 0], inputs["C"][:, 0]]
    more: dict[str, Any] = {}
    if options == "all":
        more = {"D": inputs["D"], "dt_bias": inputs["dt_bias"], "dt_softplus": True}
    on_cpu = {name: value.cpu() if isinstance(value, Tensor) else value for name, value in more.items()}
    address = state.data_ptr()
    y = mamba_ssm.step(state, *token, **more)
    wanted = step(wanted_state, *(part.cpu() for part in token), **on_cpu, backend="reference")
    assert state.data_ptr() == address
    assert difference(y, wanted.double()) <= STEP_TOLERANCES[dtype]
    assert difference(state, wanted_state.double()) < STEP_TOLERANCES[torch.float32]
    # a second step, into memory that is given
    out = torch.empty_like(y)
    assert mamba_ssm.step(state, *token, **more, out=out) is out


def test_stepping_on_from_a_prefill_gives_the_full_pass(device: torch.device) -> None:
    inputs = drawn(device, torch.float32, tokens=LENGTH)
    wanted, _ = definition(inputs)
    cut = LENGTH - 3
    parts = {name: inputs[name][:, :cut] for name in ("x", "dt", "B", "C")}
    with torch.no_grad():
        state = run({**inputs, **parts}).final_state
        for t in range(cut, LENGTH):
            token = [inputs["x"][:, t], inputs["dt"][:, t], inputs["A"], inputs["B"][:, t], inputs["C"][:, t]]
            y = mamba_ssm.step(state, *token, D=inputs["D"], dt_bias=inputs["dt_bias"], dt_softplus=True)
            assert difference(y, wanted.y[:, t]) < TOLERANCES[torch.float32]
    assert difference(state, wanted.final_state) < TOLERANCES[torch.float32]


@pytest.mark.parametrize("operator", ["ssd", "ssd_step"])
def test_a_kernel_that_is_wrong_is_found_out_at_its_first_use(
    device: torch.device, operator: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the portable step stands for the truth: one that decays too much makes the kernel look wrong
    def decaying_too_much(state: Tensor, x: Tensor, dt: Tensor, A: Tensor, *rest: Tensor, **more: Any) -> Tensor:
        return step_portable(state, x, dt, 1.5 * A, *rest, **more)

    monkeypatch.setattr(mamba_ssm, "step_portable", decaying_too_much)
    mamba_ssm._compare_once.cache_clear()
    inputs = drawn(device, torch.float32, tokens=20)
    x, dt, A, B, C = (inputs[name] for name in ("x", "dt", "A", "B", "C"))
    state = inputs["initial_state"].clone()
    use = {
        "ssd": lambda: run(inputs),
        "ssd_step": lambda: mamba_ssm.step(state, x[:, 0], dt[:, 0], A, B[:, 0], C[:, 0], dt_softplus=True),
    }[operator]
    with pytest.raises(BackendError, match=rf"{operator} backend='mamba_ssm' differs .* choose another backend"):
        use()
    monkeypatch.setattr(mamba_ssm, "step_portable", step_portable)
    use()


@pytest.mark.skipif(IS_INTERPRETED, reason="a GPU decides")
def test_auto_takes_the_kernels_and_leaves_float64_to_the_portable_path(device: torch.device) -> None:
    for operator in ("ssd", "ssd_step"):
        assert resolve(operator, "auto", device, torch.bfloat16).name == "mamba_ssm"
        assert resolve(operator, "auto", device, torch.float64) in operators()[operator][1:]
    inputs = drawn(device, torch.bfloat16)
    named = dict(inputs)
    first = [named.pop(name) for name in ("x", "dt", "A", "B", "C")]
    with torch.no_grad():
        found = ssd(*first, **named, dt_softplus=True)
        wanted = mamba_ssm.ssd(*first, **named, dt_softplus=True)
    assert torch.equal(found.y, wanted.y)


@pytest.mark.skipif(IS_INTERPRETED, reason="minutes in the interpreter")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_sizes_of_a_model_are_those_of_the_definition(device: torch.device, dtype: torch.dtype) -> None:
    inputs = drawn(device, dtype, batch=2, tokens=700, heads=8, groups=4, size=128)
    named = dict(inputs)
    first = [named.pop(name) for name in ("x", "dt", "A", "B", "C")]
    with torch.no_grad():
        found = mamba_ssm.ssd(*first, **named, dt_softplus=True)
        wanted, _ = definition(inputs)
    assert difference(found.y, wanted.y) < TOLERANCES[dtype]
    assert difference(found.final_state, wanted.final_state) < TOLERANCES[dtype]
