"""The official convolution kernel: what it is given, what it lacks, and that it is right, on a GPU if there is one."""

import sys
from types import ModuleType

import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv1d, silu

from lab.core.conv import causal_conv as conv
from lab.core.conv.causal_conv import causal_conv, conv_step
from lab.core.errors import BackendError
from lab.core.operators.backends import Backend, operators

# largest error relative to the largest number
TOLERANCES = {torch.float32: 1e-6, torch.bfloat16: 8e-3}


def drawn(
    *,
    batch: int = 2,
    tokens: int = 11,
    channels: int = 8,
    taps: int = 4,
    sequences: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(dtype)

    return {
        "x": normal(batch, tokens, channels),
        "weight": normal(channels, taps),
        "bias": normal(channels),
        "initial_state": normal(sequences or batch, channels, taps - 1),
    }


def difference(found: Tensor, wanted: Tensor) -> float:
    return float((found.double() - wanted).abs().max() / wanted.abs().max())


def padded_conv(x: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor | None, activation: str | None) -> Tensor:
    """The convolution of [B, T, C] by torch's own, in float64."""
    before = x.new_zeros(len(x), x.shape[2], weight.shape[1] - 1) if state is None else state
    padded = torch.cat([before, x.mT], dim=2).double()
    shift = None if bias is None else bias.double()
    y = conv1d(padded, weight[:, None].double(), shift, groups=len(weight)).mT
    return silu(y) if activation == "silu" else y


def official_fn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    seq_idx: Tensor | None = None,
    initial_states: Tensor | None = None,
    activation: str | None = None,
) -> Tensor:
    """What `causal_conv1d_fn` of the package does and demands (its source, 1.5 and later), on the CPU."""
    assert x.stride(1) == 1
    assert x.stride(2) > 1
    assert bias is None or bias.dtype == weight.dtype
    assert seq_idx is None or (initial_states is None and seq_idx.dtype == torch.int32 and seq_idx.is_contiguous())
    assert initial_states is None or (initial_states.stride(1) == 1 and initial_states.dtype == x.dtype)
    inputs, state = x.mT, initial_states
    numbers = torch.zeros(1, x.shape[2], dtype=torch.int32) if seq_idx is None else seq_idx
    pieces = [inputs[:, numbers[0] == number] for number in numbers.unique()]
    return torch.cat([padded_conv(piece, weight, bias, state, activation) for piece in pieces], dim=1).to(x.dtype).mT


def official_update(x: Tensor, state: Tensor, weight: Tensor, bias: Tensor | None, activation: str | None) -> Tensor:
    assert state.dtype == x.dtype
    y = padded_conv(x[:, None], weight, bias, state, activation)[:, 0]
    state.copy_(torch.cat([state, x[:, :, None]], dim=2)[:, :, 1:])
    return y.to(x.dtype)


@pytest.fixture
def official(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A package causal_conv1d that runs on the CPU and seems to be usable there."""
    package = ModuleType("causal_conv1d")
    vars(package).update(causal_conv1d_fn=official_fn, causal_conv1d_update=official_update)
    monkeypatch.setitem(sys.modules, "causal_conv1d", package)
    conv._compare_once.cache_clear()
    for operator in ("causal_conv", "causal_conv_step"):
        kernel, *rest = operators()[operator]
        usable = Backend(kernel.name, lambda device, dtype: None, kernel.load)
        monkeypatch.setitem(operators(), operator, (usable, *rest))
    return package


@pytest.mark.parametrize("name", ["causal_conv1d_fn", "causal_conv1d_update"])
def test_a_kernel_that_is_wrong_is_found_out_at_its_first_use(official: ModuleType, name: str) -> None:
    right = getattr(official, name)
    setattr(official, name, lambda *args, **options: right(*args, **options) * 1.01)
    inputs = drawn()
    with pytest.raises(BackendError, match=r"differs from the portable one by 0\.01.*choose backend='portable'"):
        causal_conv(**inputs)
    setattr(official, name, right)
    causal_conv(**inputs)


@pytest.mark.usefixtures("official")
@pytest.mark.parametrize("taps", [2, 4])
@pytest.mark.parametrize("starts", [None, [0, 0, 4, 5, 11]])
def test_the_official_kernel_is_given_what_it_demands(taps: int, starts: list[int] | None) -> None:
    inputs = drawn(batch=1, channels=8, taps=taps, dtype=torch.bfloat16)
    inputs["weight"] = inputs["weight"].float()
    if starts is not None:
        del inputs["initial_state"]
    where = None if starts is None else torch.tensor(starts)
    found, wanted = (
        causal_conv(**inputs, activation="silu", cu_seqlens=where, backend=backend)
        for backend in ("causal_conv1d", "reference")
    )
    assert difference(found.y, wanted.y.double()) < TOLERANCES[torch.bfloat16]
    assert torch.equal(found.final_state, wanted.final_state)
    state = wanted.final_state[:1].clone()
    expected_state = state.clone()
    rest = {"bias": inputs["bias"], "activation": "silu"}
    y = conv_step(state, inputs["x"][:, 0], inputs["weight"], **rest, backend="causal_conv1d")
    expected = conv_step(expected_state, inputs["x"][:, 0], inputs["weight"], **rest, backend="reference")
    assert difference(y, expected.double()) < TOLERANCES[torch.bfloat16]
    assert torch.equal(state, expected_state)


@pytest.mark.usefixtures("official")
@pytest.mark.parametrize(
    ("sizes", "starts", "message"),
    [
        ({"channels": 8, "taps": 5}, None, "2 to 4 taps, not 5"),
        ({"channels": 12}, None, "channels in eights, not 12"),
        ({"channels": 8, "tokens": 0}, None, "no empty batch"),
        ({"channels": 8, "batch": 1, "sequences": 2}, [0, 3, 11], "no initial_state with packed"),
    ],
)
def test_what_the_official_kernel_lacks_is_an_error_or_the_portable_way(
    sizes: dict[str, int], starts: list[int] | None, message: str
) -> None:
    inputs = drawn(**sizes, dtype=torch.float32)  # type: ignore[arg-type]
    where = None if starts is None else torch.tensor(starts)
    with pytest.raises(BackendError, match=f"{message}.* use backend='auto' or 'portable'"):
        causal_conv(**inputs, cu_seqlens=where, backend="causal_conv1d")
    found = causal_conv(**inputs, cu_seqlens=where)
    assert torch.equal(found.y, causal_conv(**inputs, cu_seqlens=where, backend="portable").y)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("backend", ["portable", "causal_conv1d"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("is_packed", [False, True])
def test_a_gpu_gives_the_same(backend: str, dtype: torch.dtype, is_packed: bool) -> None:
    device = torch.device("cuda")
    chosen = {choice.name: choice for choice in operators()["causal_conv"]}[backend]
    reason = chosen.why_not(device, dtype)
    if reason is not None:
        pytest.skip(reason)
    inputs = drawn(batch=1, channels=16, taps=4, tokens=300, dtype=dtype)
    starts = torch.tensor([0, 2, 150, 300]) if is_packed else None
    if is_packed:
        del inputs["initial_state"]
    outputs, gradients = [], []
    for place, name in ((device, backend), (torch.device("cpu"), "reference")):
        leaves = {key: tensor.to(place).requires_grad_() for key, tensor in inputs.items()}
        where = None if starts is None else starts.to(place)
        y, state = causal_conv(**leaves, activation="silu", cu_seqlens=where, backend=name)
        gradients.append(torch.autograd.grad(y.float().square().sum() + state.float().sum(), list(leaves.values())))
        outputs.append((y, state))
    tolerance = TOLERANCES[dtype] * (3 if dtype == torch.bfloat16 else 10)
    for found, wanted in zip(outputs[0] + gradients[0], outputs[1] + gradients[1], strict=True):
        assert difference(found.detach().cpu(), wanted.detach().double()) < tolerance


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("backend", ["portable", "causal_conv1d"])
def test_a_step_on_a_gpu_gives_the_same(backend: str) -> None:
    device = torch.device("cuda")
    reason = {choice.name: choice for choice in operators()["causal_conv_step"]}[backend].why_not(device, torch.float32)
    if reason is not None:
        pytest.skip(reason)
    inputs = drawn(channels=16, tokens=6, dtype=torch.float32)
    wanted = causal_conv(**inputs, activation="silu", backend="reference")
    x, weight, bias, state = (tensor.to(device) for tensor in inputs.values())
    for t in range(6):
        y = conv_step(state, x[:, t], weight, bias, activation="silu", backend=backend)
        assert difference(y.cpu(), wanted.y[:, t].double()) < 1e-5
    assert torch.equal(state.cpu(), wanted.final_state)
