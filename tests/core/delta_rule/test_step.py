"""A decoding step of the gated delta rule, on every path: against the operator, and what it refuses."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import normalize
from torch.profiler import ProfilerActivity, profile

from lab.core.delta_rule import gated_delta_rule
from lab.core.delta_rule.decode import native
from lab.core.delta_rule.decode.step import step
from lab.core.errors import BackendError, InputError

# largest error relative to the largest number: rounding of the dtype, and of sums over K numbers
TOLERANCES = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 8e-3, torch.float16: 1e-3}
SHARING = [(4, 4, 4), (4, 2, 2), (2, 2, 4), (1, 4, 2)]


@pytest.fixture(params=["compiled", "torch", "reference"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of the back end that takes this way."""
    if request.param == "compiled":
        request.getfixturevalue("compiled_steps")
    if request.param == "torch":
        monkeypatch.setattr(native, "_loop", lambda: None)
    return "reference" if request.param == "reference" else "portable"


def drawn(
    *,
    batch: int = 2,
    tokens: int = 6,
    heads: int = 4,
    sharing: tuple[int, int, int] = (4, 2, 2),
    key_dim: int = 7,
    value_dim: int = 5,
    dtype: torch.dtype = torch.float64,
) -> dict[str, Tensor]:
    """Inputs of a whole sequence, and the state before it."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    q_heads, k_heads, v_heads = sharing
    wide = torch.promote_types(dtype, torch.float32)
    return {
        "state": normal(batch, heads, value_dim, key_dim).to(wide),
        "q": normal(batch, tokens, q_heads, key_dim).to(dtype),
        "k": normalize(normal(batch, tokens, k_heads, key_dim), dim=-1).to(dtype),
        "v": normal(batch, tokens, v_heads, value_dim).to(dtype),
        "g": -normal(batch, tokens, heads).exp().to(wide),
        "beta": 2 * torch.sigmoid(normal(batch, tokens, heads)).to(wide),
    }


def token(inputs: dict[str, Tensor], t: int) -> tuple[Tensor, ...]:
    return tuple(inputs[name][:, t] for name in ("q", "k", "v", "g", "beta"))


def whole(inputs: dict[str, Tensor], stop: int | None = None) -> tuple[Tensor, Tensor]:
    """Outputs and state behind `stop` tokens, by the recurrence in float64."""
    wide = {name: tensor.double() for name, tensor in inputs.items()}
    state = wide.pop("state")
    parts = {name: tensor[:, :stop] for name, tensor in wide.items()}
    return gated_delta_rule(**parts, scale=0.4, initial_state=state, backend="reference")


def difference(found: Tensor, wanted: Tensor) -> float:
    return float((found.double() - wanted).abs().max() / wanted.abs().max())


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("sharing", SHARING)
def test_stepping_from_any_split_gives_the_full_pass(
    dtype: torch.dtype, sharing: tuple[int, int, int], path: str
) -> None:
    inputs = drawn(sharing=sharing, dtype=dtype)
    outputs, last = whole(inputs)
    for split in range(7):
        state = whole(inputs, split)[1].to(inputs["state"].dtype, copy=True)
        for t in range(split, 6):
            y = step(state, *token(inputs, t), scale=0.4, backend=path)
            assert y.dtype == dtype
            assert difference(y, outputs[:, t]) < TOLERANCES[dtype]
        assert difference(state, last) < TOLERANCES[state.dtype]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_stepping_on_from_a_prefill_gives_the_full_pass(dtype: torch.dtype, path: str) -> None:
    inputs = drawn(tokens=80, dtype=dtype)
    outputs, last = whole(inputs)
    prefill = {name: tensor[:, :70] for name, tensor in inputs.items() if name != "state"}
    state = gated_delta_rule(**prefill, initial_state=inputs["state"]).final_state
    for t in range(70, 80):
        y = step(state, *token(inputs, t), scale=0.4, backend=path)
        assert difference(y, outputs[:, t]) < 10 * TOLERANCES[dtype]
    assert difference(state, last) < 10 * TOLERANCES[dtype]


@given(
    st.integers(1, 3),
    st.sampled_from([(1, (1, 1, 1)), (4, (1, 4, 2)), (6, (3, 2, 6))]),
    st.integers(1, 9),
    st.sampled_from([1, 3, 8, 15, 16, 17, 31, 32, 48, 64, 100, 128, 130]),
    st.sampled_from([torch.float64, torch.float32, torch.bfloat16]),
)
@pytest.mark.usefixtures("compiled_steps")
def test_the_compiled_loop_knows_every_size(
    batch: int, heads: tuple[int, tuple[int, int, int]], value_dim: int, key_dim: int, dtype: torch.dtype
) -> None:
    inputs = drawn(
        batch=batch,
        tokens=1,
        heads=heads[0],
        sharing=heads[1],
        key_dim=key_dim,
        value_dim=value_dim,
        dtype=dtype,
    )
    outputs, last = whole(inputs)
    y = torch.full((batch, heads[0], value_dim), torch.nan, dtype=dtype)
    assert native.advance(inputs["state"], *token(inputs, 0), 0.4, y)
    assert difference(y, outputs[:, 0]) < TOLERANCES[dtype]
    assert difference(inputs["state"], last) < TOLERANCES[inputs["state"].dtype]


def test_the_state_is_advanced_in_place_and_the_output_goes_where_it_is_wanted(path: str) -> None:
    inputs = drawn(dtype=torch.float32)
    address, out = inputs["state"].data_ptr(), torch.empty(2, 4, 5)
    outputs, last = whole(inputs, 1)
    assert step(inputs["state"], *token(inputs, 0), scale=0.4, out=out, backend=path) is out
    assert inputs["state"].data_ptr() == address
    assert difference(out, outputs[:, 0]) < 2e-6
    assert difference(inputs["state"], last) < 2e-6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_state_of_fewer_bits_is_rounded_once_a_step(dtype: torch.dtype, path: str) -> None:
    inputs = drawn(tokens=1, dtype=dtype)
    inputs["state"] = inputs["state"].to(dtype)
    _, last = whole(inputs)
    step(inputs["state"], *token(inputs, 0), backend=path)
    assert difference(inputs["state"], last) < TOLERANCES[dtype]


def test_a_step_can_be_traced(path: str) -> None:
    with torch._subclasses.FakeTensorMode() as mode:
        inputs = {name: mode.from_tensor(tensor) for name, tensor in drawn(dtype=torch.float32).items()}
        assert step(inputs["state"], *token(inputs, 0), backend=path).shape == (2, 4, 5)


def allocations(run: Any) -> list[int]:
    """Bytes of every allocation that the profiler sees in a few runs."""
    run()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        for _ in range(3):
            run()
    return [event.self_cpu_memory_usage for event in profiler.events() if event.self_cpu_memory_usage > 0]


@pytest.mark.usefixtures("compiled_steps")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_a_compiled_step_allocates_nothing(dtype: torch.dtype) -> None:
    # the parts of one token lie apart in the batch, as those of one projection
    inputs = drawn(heads=8, sharing=(8, 2, 2), key_dim=64, value_dim=64, dtype=dtype)
    parts, y = token(inputs, 0), torch.empty(2, 8, 64, dtype=dtype)
    assert not parts[0].is_contiguous()
    assert allocations(lambda: step(inputs["state"], *parts, out=y)) == []


def test_without_a_compiler_a_step_allocates_little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "_loop", lambda: None)
    inputs = drawn(heads=8, sharing=(8, 2, 2), key_dim=64, value_dim=64, dtype=torch.float32)
    sizes = allocations(lambda: step(inputs["state"], *token(inputs, 0)))
    assert max(sizes) * 50 < inputs["state"].nbytes


def refusal(**changed: Any) -> str:
    tensors = {name: tensor if name == "state" else tensor[:, 0] for name, tensor in drawn(dtype=torch.float32).items()}
    with pytest.raises(InputError) as caught:
        step(**{**tensors, **changed})
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.wrong_shapes
@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"state": torch.ones(2, 4, 5)}, "state has shape (2, 4, 5)"),
        ({"state": torch.ones(2, 4, 7, 5).mT}, "state is not contiguous"),
        ({"q": torch.ones(2, 3, 7)}, "q has shape (2, 3, 7) but must be [B, Hq, K], its heads a divisor of 4"),
        ({"k": torch.ones(2, 2, 6)}, "k has shape (2, 2, 6)"),
        ({"v": torch.ones(2, 2, 6)}, "v has shape (2, 2, 6)"),
        ({"g": torch.ones(2, 2)}, "g has shape (2, 2)"),
        ({"beta": torch.ones(2, 4, dtype=torch.int64)}, "beta has dtype torch.int64"),
        ({"g": torch.ones(2, 4, device="meta")}, "g is on meta"),
        ({"out": torch.ones(2, 4, 5).double()}, "out has dtype torch.float64"),
        ({"out": torch.ones(2, 4, 7)}, "out has shape (2, 4, 7)"),
        ({"q": torch.ones(2, 4, 7, requires_grad=True)}, "call it under torch.no_grad()"),
    ],
)
def test_what_does_not_fit_is_refused(changed: dict[str, Any], words: str) -> None:
    assert words in refusal(**changed)


def test_kernels_that_cannot_run_are_refused_with_the_reason() -> None:
    inputs = drawn(dtype=torch.float32)
    with pytest.raises(BackendError, match=r"'fla' cannot run on cpu: it needs a CUDA device"):
        step(inputs["state"], *token(inputs, 0), backend="fla")
