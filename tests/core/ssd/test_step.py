from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses import FakeTensor, FakeTensorMode

from lab.core.errors import BackendError, InputError
from lab.core.native import build
from lab.core.native.dlpack import tensor_exchange
from lab.core.ssd import ssd
from lab.core.ssd.decode import native
from lab.core.ssd.decode.step import step

# largest error relative to the largest number: rounding of the dtype, and of sums over N numbers
TOLERANCES = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 8e-3, torch.float16: 1e-3}
DTYPES = list(TOLERANCES)
PATHS = ["compiled", "torch", "reference"]


@pytest.fixture(params=PATHS)
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
    groups: int = 2,
    head_dim: int = 5,
    state_dim: int = 7,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Inputs of a whole sequence, and the state before it."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    wide = torch.promote_types(dtype, torch.float32)
    return {
        "state": normal(batch, heads, head_dim, state_dim).to(wide),
        "x": normal(batch, tokens, heads, head_dim).to(dtype),
        "dt": normal(batch, tokens, heads).to(wide),
        "A": -normal(heads).exp().to(wide),
        "B": normal(batch, tokens, groups, state_dim).to(dtype),
        "C": normal(batch, tokens, groups, state_dim).to(dtype),
    }


def token(inputs: dict[str, Tensor], t: int) -> tuple[Tensor, ...]:
    return inputs["x"][:, t], inputs["dt"][:, t], inputs["A"], inputs["B"][:, t], inputs["C"][:, t]


def recurrence(inputs: dict[str, Tensor], options: dict[str, Any]) -> tuple[Tensor, list[Tensor]]:
    """Outputs, and the state before the first and after every token, in float64 and number by number of the formula."""
    wide = {name: tensor.double() for name, tensor in inputs.items()}
    num_heads, num_groups = wide["x"].shape[2], wide["B"].shape[2]
    skip = options.get("D")
    states, outputs = [wide["state"]], []
    for t in range(wide["x"].shape[1]):
        after, y = torch.empty_like(states[-1]), torch.empty_like(wide["x"][:, t])
        for h in range(num_heads):
            group = h // (num_heads // num_groups)
            size = wide["dt"][:, t, h]
            if options.get("dt_bias") is not None:
                size = size + options["dt_bias"][h].double()
            if options.get("dt_softplus"):
                size = torch.log1p(torch.exp(-size.abs())) + size.clamp(min=0)
            x, write, read = wide["x"][:, t, h], wide["B"][:, t, group], wide["C"][:, t, group]
            decay = torch.exp(size * wide["A"][h])
            after[:, h] = decay[:, None, None] * states[-1][:, h] + torch.einsum("b,bp,bn->bpn", size, x, write)
            y[:, h] = torch.einsum("bpn,bn->bp", after[:, h], read)
            if skip is not None:
                y[:, h] += skip[h].double() * x
        states.append(after)
        outputs.append(y)
    return torch.stack(outputs, dim=1), states


def difference(found: Tensor, wanted: Tensor) -> float:
    return float((found.double() - wanted).abs().max() / wanted.abs().max())


def all_options(heads: int, head_dim: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)
    return {
        "D": torch.randn(heads, head_dim, generator=generator),
        "dt_bias": torch.randn(heads, generator=generator),
        "dt_softplus": True,
    }


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_stepping_from_any_split_gives_the_full_pass(dtype: torch.dtype, groups: int, path: str) -> None:
    inputs, options = drawn(groups=groups, dtype=dtype), all_options(4, 5)
    outputs, states = recurrence(inputs, options)
    for split in range(7):
        state = states[split].to(inputs["state"].dtype)
        for t in range(split, 6):
            y = step(state, *token(inputs, t), **options, backend=path)
            assert y.dtype == dtype
            assert difference(y, outputs[:, t]) < TOLERANCES[dtype]
        assert difference(state, states[-1]) < TOLERANCES[state.dtype]


@pytest.mark.parametrize(
    "options",
    [{}, {"D": torch.tensor([1.0, -2, 0, 3])}, {"dt_bias": torch.ones(4)}, {"dt_softplus": True}, all_options(4, 5)],
    ids=["plain", "one D a head", "bias", "softplus", "all"],
)
def test_every_option_does_what_the_formula_says(options: dict[str, Any], path: str) -> None:
    inputs = drawn(tokens=1)
    inputs["dt"] = inputs["dt"].abs()
    outputs, states = recurrence(inputs, options)
    y = step(inputs["state"], *token(inputs, 0), **options, backend=path)
    assert difference(y, outputs[:, 0]) < 1e-12
    assert difference(inputs["state"], states[1]) < 1e-12


@given(st.integers(1, 3), st.sampled_from([(1, 1), (4, 1), (6, 3), (4, 4)]), st.integers(1, 9), st.integers(1, 150))
def test_the_compiled_loop_knows_every_size(batch: int, heads: tuple[int, int], head_dim: int, state_dim: int) -> None:
    inputs = drawn(
        batch=batch,
        tokens=1,
        heads=heads[0],
        groups=heads[1],
        head_dim=head_dim,
        state_dim=state_dim,
        dtype=torch.float32,
    )
    outputs, states = recurrence(inputs, {})
    y = step(inputs["state"], *token(inputs, 0))
    assert difference(y, outputs[:, 0]) < 2e-5  # sums of numbers of both signs may cancel
    assert difference(inputs["state"], states[1]) < 2e-6


@pytest.mark.parametrize("head_dim", [64, 67])
@pytest.mark.parametrize("state_dim", [16, 32, 64, 128, 256])
def test_the_state_sizes_in_use_are_exact_for_all_threads(state_dim: int, head_dim: int) -> None:
    inputs = drawn(tokens=1, heads=8, head_dim=head_dim, state_dim=state_dim, dtype=torch.float32)
    alone, together = inputs["state"].clone(), inputs["state"].clone()
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        first = step(alone, *token(inputs, 0))
        torch.set_num_threads(2)
        second = step(together, *token(inputs, 0))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(first, second)
    assert torch.equal(alone, together)
    outputs, states = recurrence(inputs, {})
    assert difference(first, outputs[:, 0]) < 2e-6
    assert difference(alone, states[1]) < 2e-6


def test_the_state_is_overwritten_where_it_lies(path: str) -> None:
    inputs = drawn(dtype=torch.float32)
    preallocated = torch.zeros(3, *inputs["state"].shape)
    state = preallocated[1]
    address, y = state.data_ptr(), torch.empty(2, 4, 5)
    for t in range(6):
        assert step(state, *token(inputs, t), out=y, backend=path) is y
    assert state.data_ptr() == address
    assert preallocated[1].abs().min() > 0
    assert not preallocated[0].any()
    assert not preallocated[2].any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_short_state_is_rounded_once_a_step(dtype: torch.dtype, path: str) -> None:
    inputs = drawn(tokens=1, dtype=dtype)
    state = inputs["state"].to(dtype)
    _, states = recurrence({**inputs, "state": state}, {})
    step(state, *token(inputs, 0), backend=path)
    assert torch.allclose(state.double(), states[1], rtol=float(torch.finfo(dtype).eps) / 1.99, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_parts_of_one_projection_need_no_copies(dtype: torch.dtype, path: str) -> None:
    inputs = drawn(tokens=1, dtype=dtype)
    _, _, A, B, C = token(inputs, 0)
    x, dt = inputs["x"][:, 0], inputs["dt"][:, 0]
    projected = torch.cat([x.flatten(1), B.flatten(1), C.flatten(1)], dim=1)
    apart = [
        part.unflatten(1, like.shape[1:])
        for part, like in zip(projected.split([20, 14, 14], dim=1), (x, B, C), strict=True)
    ]
    assert not any(part.is_contiguous() for part in apart)
    wanted_state, state = inputs["state"].clone(), inputs["state"].clone()
    wanted = step(wanted_state, x, dt, A, B, C, backend=path)
    assert torch.equal(step(state, apart[0], dt, A, apart[1], apart[2], backend=path), wanted)
    assert torch.equal(state, wanted_state)
    # any other layout is read as well
    odd = step(
        inputs["state"].clone(), x.mT.contiguous().mT, dt.T.contiguous().T, A, B.mT.contiguous().mT, C, backend=path
    )
    assert torch.equal(odd, wanted)


def test_one_weight_a_channel_is_read_where_its_rows_lie_apart(path: str) -> None:
    inputs, wide = drawn(tokens=1), torch.randn(4, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    outputs, _ = recurrence(inputs, {"D": wide[:, :5]})
    assert difference(step(inputs["state"], *token(inputs, 0), D=wide[:, :5], backend=path), outputs[:, 0]) < 1e-12


def test_an_empty_batch_is_an_empty_output(path: str) -> None:
    inputs = drawn(tokens=1, batch=0, dtype=torch.float32)
    x, dt, A, B, C = token(inputs, 0)
    assert step(inputs["state"], x, dt, A, B, C, backend=path).shape == (0, 4, 5)
    # no copy is made of an empty tensor, whatever its strides
    odd = x.mT.contiguous().mT
    assert step(inputs["state"], odd, dt, A, B[:, :1].expand_as(B), C, backend=path).shape == (0, 4, 5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_softplus_ends_where_that_of_the_operator_ends(dtype: torch.dtype, path: str) -> None:
    inputs = drawn(tokens=1, dtype=dtype)
    # with A = 0 and C = 0 the state shows dt x B'; 19 to 41 covers torch's own threshold of 20 and ours of 40
    inputs["dt"] = torch.linspace(19, 41, 8, dtype=dtype).view(2, 1, 4)
    inputs["A"] = torch.zeros_like(inputs["A"])
    x, dt, A, B, C = token(inputs, 0)
    state = torch.zeros_like(inputs["state"])
    step(state, x, dt, A, B, C, dt_softplus=True, backend=path)
    whole = ssd(x[:, None], dt[:, None], A, B[:, None], C[:, None], dt_softplus=True, backend="reference").final_state
    assert difference(state, whole.double()) <= float(torch.finfo(dtype).eps) * 2


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("CXX", "a-compiler-that-is-not-there")
    build.load_native.cache_clear()
    native._loop.cache_clear()
    yield
    build.load_native.cache_clear()
    native._loop.cache_clear()


@pytest.fixture
def older_torch(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delattr(Tensor, "__dlpack_c_exchange_api__", raising=False)
    tensor_exchange.cache_clear()
    native._loop.cache_clear()
    yield
    tensor_exchange.cache_clear()
    native._loop.cache_clear()


@pytest.mark.parametrize("missing", ["no_compiler", "older_torch"])
def test_where_there_is_no_compiled_loop_torch_gives_the_same(missing: str, request: pytest.FixtureRequest) -> None:
    request.getfixturevalue(missing)
    inputs, options = drawn(), all_options(4, 5)
    outputs, _ = recurrence(inputs, options)
    for t in range(6):
        assert difference(step(inputs["state"], *token(inputs, t), **options), outputs[:, t]) < 1e-12
    assert native._loop() is None


def test_a_step_can_be_traced_without_memory() -> None:
    inputs, options = drawn(tokens=1, dtype=torch.float32), all_options(4, 5)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = {name: mode.from_tensor(tensor) for name, tensor in inputs.items()}
        y = step(fake["state"], *token(fake, 0), **options)
    assert isinstance(y, FakeTensor)
    assert y.shape == (2, 4, 5)


def test_extreme_decays_and_step_sizes_stay_finite(path: str) -> None:
    inputs = drawn(tokens=1, dtype=torch.float32)
    inputs["A"] = torch.tensor([-1e-8, -1.0, -1e4, -1e30])
    inputs["dt"] = torch.tensor([[[-100.0, 0.0, 90.0, 1e4]], [[200.0, -1e4, 30.0, 1e-30]]])
    y = step(inputs["state"], *token(inputs, 0), dt_softplus=True, backend=path)
    assert torch.isfinite(y).all()
    assert torch.isfinite(inputs["state"]).all()


def test_a_model_in_training_is_told_to_decode_without_gradients() -> None:
    inputs = drawn()
    inputs["A"].requires_grad_()
    with pytest.raises(InputError, match=r"gives no gradients; call it under torch.no_grad"):
        step(inputs["state"], *token(inputs, 0))
    with torch.no_grad():
        step(inputs["state"], *token(inputs, 0))


REFUSED = {
    "state without batch": ({"state": torch.zeros(4, 5, 7)}, "state has shape (4, 5, 7)"),
    "state in pieces": ({"state": torch.zeros(2, 4, 7, 5).mT}, "state is not contiguous"),
    "state of whole numbers": ({"state": torch.zeros(2, 4, 5, 7, dtype=torch.int64)}, "state has dtype torch.int64"),
    "x of other heads": ({"x": torch.zeros(2, 3, 5)}, "x has shape (2, 3, 5)"),
    "dt per channel": ({"dt": torch.zeros(2, 4, 5)}, "dt has shape (2, 4, 5)"),
    "A per channel": ({"A": torch.zeros(4, 5)}, "A has shape (4, 5)"),
    "groups that do not divide": ({"B": torch.zeros(2, 3, 7)}, "divisor of 4 heads"),
    "C of another group": ({"C": torch.zeros(2, 4, 7)}, "C has shape (2, 4, 7)"),
    "D of no shape": ({"D": torch.zeros(5)}, "D has shape (5,)"),
    "bias of no shape": ({"dt_bias": torch.zeros(1)}, "dt_bias has shape (1,)"),
    "output of another dtype": ({"out": torch.zeros(2, 4, 5, dtype=torch.float16)}, "out has dtype torch.float16"),
    "another device": ({"x": torch.zeros(2, 4, 5, device="meta")}, "x is on meta"),
}


@pytest.mark.wrong_shapes
@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_in_one_line(case: str) -> None:
    replaced, message = REFUSED[case]
    inputs = drawn(tokens=1, dtype=torch.float32)
    x, dt, A, B, C = token(inputs, 0)
    arguments = {"state": inputs["state"], "x": x, "dt": dt, "A": A, "B": B, "C": C, **replaced}
    before = inputs["state"].clone()
    with pytest.raises(InputError) as caught:
        step(**arguments)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert torch.equal(inputs["state"], before)


def test_the_gpu_kernel_is_not_taken_on_a_cpu() -> None:
    inputs = drawn(tokens=1)
    with pytest.raises(BackendError, match="needs a CUDA device"):
        step(inputs["state"], *token(inputs, 0), backend="mamba_ssm")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_portable_step_on_a_gpu_is_that_of_the_definition(dtype: torch.dtype) -> None:
    inputs, options = drawn(dtype=dtype), all_options(4, 5)
    outputs, states = recurrence(inputs, options)
    there = {name: tensor.cuda() for name, tensor in inputs.items()}
    on_gpu = {name: value.cuda() if isinstance(value, Tensor) else value for name, value in options.items()}
    for t in range(6):
        y = step(there["state"], *token(there, t), **on_gpu, backend="portable")
        assert difference(y.cpu(), outputs[:, t]) < TOLERANCES[dtype] * 3
    assert difference(there["state"].cpu(), states[-1]) < 1e-5
