"""The convolution agrees with its definition and with torch's own, also where it is cut, packed, or stepped."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import conv1d, silu

from lab.core.conv import blocks, native
from lab.core.conv.causal_conv import ConvOutput, causal_conv, conv_step
from lab.core.errors import BackendError, InputError

# largest error relative to the largest number
TOLERANCES = {torch.float64: 1e-13, torch.float32: 1e-6, torch.bfloat16: 8e-3, torch.float16: 1e-3}
BACKENDS = ["portable", "reference"]

# whole vector registers: torch computes the numbers behind the last whole one by another formula, with other last bits
CHANNELS_OF_VECTORS = 64


def drawn(
    *,
    batch: int = 2,
    tokens: int = 11,
    channels: int = 5,
    taps: int = 4,
    sequences: int | None = None,
    dtype: torch.dtype = torch.float64,
) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(taps + 10 * tokens)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    return {
        "x": normal(batch, tokens, channels),
        "weight": normal(channels, taps),
        "bias": normal(channels),
        "initial_state": normal(sequences or batch, channels, taps - 1),
    }


def torch_conv(
    x: Tensor, weight: Tensor, bias: Tensor | None, initial_state: Tensor | None, activation: str | None
) -> Tensor:
    """The same by torch's depthwise convolution in float64."""
    x, weight = x.double(), weight.double()
    num_before = weight.shape[1] - 1
    before = x.new_zeros(len(x), x.shape[2], num_before) if initial_state is None else initial_state.double()
    padded = torch.cat([before, x.transpose(1, 2)], dim=2)
    y = conv1d(padded, weight[:, None], None if bias is None else bias.double(), groups=x.shape[2]).transpose(1, 2)
    return silu(y) if activation == "silu" else y


def difference(found: Tensor, wanted: Tensor) -> float:
    return float((found.double() - wanted).abs().max() / wanted.abs().max())


def same(found: Tensor, wanted: Tensor) -> bool:
    """To the last bit if the channels fill registers, else to rounding."""
    if found.shape[2] == CHANNELS_OF_VECTORS:
        return torch.equal(found, wanted)
    return torch.allclose(found, wanted, rtol=1e-6, atol=1e-6)


@pytest.fixture(params=["compiled", "blocks"])
def small_blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The compiled loops, and torch's blocks of a few tokens, whose seams lie within the tests' short sequences."""
    if request.param == "compiled":
        if not native.can_run(torch.zeros(1, 1, 1), 1):
            pytest.skip("there is no compiler")
        return
    monkeypatch.setattr(native, "can_run", lambda *_: False)
    monkeypatch.setattr(blocks, "_BLOCK", 30)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("activation", ["silu", None])
@pytest.mark.parametrize("taps", [1, 2, 3, 4, 9])
def test_it_is_torchs_depthwise_convolution(backend: str, dtype: torch.dtype, activation: Any, taps: int) -> None:
    inputs = drawn(taps=taps, dtype=dtype)
    y, _ = causal_conv(**inputs, activation=activation, backend=backend)
    assert y.dtype == dtype
    assert difference(y, torch_conv(**inputs, activation=activation)) < TOLERANCES[dtype]
    bare = causal_conv(inputs["x"], inputs["weight"], activation=activation, backend=backend).y
    wanted = torch_conv(inputs["x"], inputs["weight"], None, None, activation)
    assert difference(bare, wanted) < TOLERANCES[dtype]


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("tokens", [1, 2, 3, 5, 6, 7, 40])
@pytest.mark.parametrize("taps", [1, 2, 4, 9])
def test_the_seams_of_blocks_do_not_show(tokens: int, taps: int) -> None:
    inputs = drawn(tokens=tokens, taps=taps)
    y, _ = causal_conv(**inputs, activation="silu", backend="portable")
    assert difference(y, torch_conv(**inputs, activation="silu")) < 1e-13


@pytest.mark.slow
@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("activation", ["silu", None])
@pytest.mark.parametrize(("tokens", "taps"), [(1, 1), (7, 1), (1, 4), (2, 4), (13, 2), (13, 4)])
def test_every_gradient_is_that_of_finite_differences(tokens: int, taps: int, activation: Any) -> None:
    inputs = [tensor.requires_grad_() for tensor in drawn(tokens=tokens, taps=taps, channels=3).values()]

    def run(x: Tensor, weight: Tensor, bias: Tensor, initial_state: Tensor) -> ConvOutput:
        return causal_conv(x, weight, bias, activation=activation, initial_state=initial_state, backend="portable")

    assert torch.autograd.gradcheck(run, inputs)


@pytest.mark.parametrize("taps", [2, 4, 5])
@pytest.mark.parametrize("channels", [1, 16, 130])
def test_gradients_of_long_sequences_are_torchs(channels: int, taps: int) -> None:
    inputs = drawn(tokens=150, channels=channels, taps=taps)
    weights = torch.cos(torch.arange(2 * 150 * channels, dtype=torch.float64)).view(2, 150, channels)
    ours, theirs = ({name: x.clone().requires_grad_() for name, x in inputs.items()} for _ in range(2))
    (causal_conv(**ours, activation="silu", backend="portable").y * weights).sum().backward()
    (torch_conv(**theirs, activation="silu") * weights).sum().backward()
    for name, x in ours.items():
        assert x.grad is not None
        assert theirs[name].grad is not None
        assert difference(x.grad, theirs[name].grad) < 1e-13, name


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("starts", [[0, 13], [0, 1, 3, 13], [0, 0, 6, 6, 7, 13, 13], [0, 2, 4, 6, 8, 10, 12, 13]])
@pytest.mark.parametrize("taps", [1, 2, 4, 9])
@pytest.mark.parametrize("channels", [CHANNELS_OF_VECTORS, 5])
def test_packed_sequences_are_the_separate_ones(starts: list[int], taps: int, channels: int) -> None:
    num_sequences = len(starts) - 1
    inputs = drawn(batch=1, tokens=13, channels=channels, taps=taps, sequences=num_sequences, dtype=torch.float32)
    initial = inputs["initial_state"]
    packed = causal_conv(**inputs, activation="silu", cu_seqlens=torch.tensor(starts), backend="portable")
    assert packed.final_state.shape == (num_sequences, channels, taps - 1)
    for i in range(num_sequences):
        part = {**inputs, "x": inputs["x"][:, starts[i] : starts[i + 1]], "initial_state": initial[i : i + 1]}
        alone = causal_conv(**part, activation="silu", backend="portable")
        assert same(packed.y[:, starts[i] : starts[i + 1]], alone.y)
        assert torch.equal(packed.final_state[i : i + 1], alone.final_state)


@pytest.mark.parametrize("starts", [[0, 1, 3, 13], [0, 0, 6, 6, 7, 13, 13]])
@pytest.mark.parametrize("taps", [1, 2, 4])
def test_gradients_of_packed_sequences_are_those_of_the_definition(starts: list[int], taps: int) -> None:
    num_sequences = len(starts) - 1
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(1, 13, 5, generator=generator), torch.randn(num_sequences, 5, taps - 1, generator=generator)
    gradients = []
    for backend in BACKENDS:
        inputs = {
            name: tensor.requires_grad_()
            for name, tensor in drawn(batch=1, tokens=13, taps=taps, sequences=num_sequences).items()
        }
        output = causal_conv(**inputs, activation="silu", cu_seqlens=torch.tensor(starts), backend=backend)
        loss = sum((part * weight).sum() for part, weight in zip(output, weights, strict=True))
        gradients.append(torch.autograd.grad(loss, list(inputs.values()), materialize_grads=True, allow_unused=True))
    for found, wanted in zip(*gradients, strict=True):
        assert torch.allclose(found, wanted, rtol=1e-12, atol=1e-12)


def test_a_sequence_does_not_hear_its_neighbours() -> None:
    inputs = drawn(batch=1, tokens=12)
    del inputs["initial_state"]
    x = inputs["x"].requires_grad_()
    y, final_state = causal_conv(**inputs, activation="silu", cu_seqlens=torch.tensor([0, 4, 5, 12]))
    (grad,) = torch.autograd.grad(y[:, 4].sum() + final_state[1].sum(), x)
    assert grad[:, 4].abs().min() > 0
    assert not grad[:, :4].any()
    assert not grad[:, 5:].any()


@given(st.integers(1, 12), st.integers(1, 6), st.integers(0, 12), st.sampled_from(["silu", None]))
def test_a_sequence_may_be_cut_anywhere(tokens: int, taps: int, cut: int, activation: Any) -> None:
    inputs = drawn(tokens=tokens, channels=CHANNELS_OF_VECTORS, taps=taps, dtype=torch.float32)
    cut = min(cut, tokens)
    whole = causal_conv(**inputs, activation=activation)
    first = causal_conv(**{**inputs, "x": inputs["x"][:, :cut]}, activation=activation)
    second = causal_conv(
        **{**inputs, "x": inputs["x"][:, cut:], "initial_state": first.final_state}, activation=activation
    )
    assert same(torch.cat([first.y, second.y], dim=1), whole.y)
    assert torch.equal(second.final_state, whole.final_state)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("taps", [1, 2, 4])
def test_prefill_leaves_the_state_that_stepping_would_have_left(backend: str, dtype: torch.dtype, taps: int) -> None:
    inputs = drawn(taps=taps, dtype=dtype)
    rest = {"bias": inputs["bias"], "activation": "silu", "backend": backend}
    whole = causal_conv(**inputs, activation="silu", backend=backend)
    state = inputs["initial_state"].clone()
    address = state.data_ptr()
    for t in range(11):
        y = conv_step(state, inputs["x"][:, t], inputs["weight"], **rest)
        assert y.dtype == dtype
        assert difference(y, whole.y[:, t].double()) <= TOLERANCES[dtype]
        prefilled = causal_conv(**{**inputs, "x": inputs["x"][:, : t + 1]}, backend=backend).final_state
        assert torch.equal(state, prefilled)
    assert state.data_ptr() == address


def test_the_final_state_is_memory_of_its_own() -> None:
    inputs = drawn(taps=2)
    before = inputs["x"].clone()
    _, state = causal_conv(**inputs)
    conv_step(state, torch.zeros(2, 5, dtype=torch.float64), inputs["weight"])
    assert torch.equal(inputs["x"], before)


def test_an_identity_tap_passes_the_tokens_on() -> None:
    x = drawn()["x"]
    weight = torch.tensor([[0.0, 1.0]]).expand(5, 2).double()
    assert torch.equal(causal_conv(x, weight).y, x)
    torch.testing.assert_close(causal_conv(x, weight, activation="silu").y, silu(x), rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("layout", ["channels first", "every second token", "a share of the channels"])
def test_any_layout_is_read(layout: str) -> None:
    inputs = drawn(tokens=11, dtype=torch.float32)
    x = inputs["x"]
    laid_out = {
        "channels first": x.mT.contiguous().mT,
        "every second token": x.repeat_interleave(2, dim=1)[:, ::2],
        "a share of the channels": torch.cat([x, x], dim=2)[:, :, :5],
    }[layout]
    assert not laid_out.is_contiguous()
    assert same(causal_conv(**{**inputs, "x": laid_out}).y, causal_conv(**inputs).y)


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_tokens_change_nothing(backend: str) -> None:
    inputs = drawn(tokens=3)
    y, state = causal_conv(**{**inputs, "x": inputs["x"][:, :0]}, backend=backend)
    assert y.shape == (2, 0, 5)
    assert torch.equal(state, inputs["initial_state"])
    packed = causal_conv(inputs["x"][:1, :0], inputs["weight"], cu_seqlens=torch.tensor([0, 0]), backend=backend)
    assert packed.y.shape == (1, 0, 5)
    assert not packed.final_state.any()


REFUSED = {
    "x without batch": ({"x": torch.zeros(11, 5)}, "x has shape (11, 5) but must be [B, T, C]"),
    "whole numbers": ({"x": torch.zeros(2, 11, 5, dtype=torch.int64)}, "x has dtype torch.int64"),
    "weight of other channels": ({"weight": torch.zeros(4, 4)}, "weight has shape (4, 4)"),
    "weight without taps": ({"weight": torch.zeros(5, 0)}, "W of 1 or more"),
    "weight of conv1d": ({"weight": torch.zeros(5, 1, 4)}, "must be [C, W]"),
    "bias": ({"bias": torch.zeros(4)}, "bias has shape (4,)"),
    "state of the taps": ({"initial_state": torch.zeros(2, 5, 4)}, "state has shape (2, 5, 4)"),
    "activation": ({"activation": "gelu"}, "activation='gelu' is unknown; give 'silu' or None"),
    "packed batch": ({"cu_seqlens": torch.tensor([0, 11])}, "batch 2"),
    "another device": ({"weight": torch.zeros(5, 4, device="meta")}, "weight is on meta"),
}


@pytest.mark.wrong_shapes
@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_in_one_line(case: str) -> None:
    replaced, message = REFUSED[case]
    with pytest.raises(InputError) as caught:
        causal_conv(**{**drawn(dtype=torch.float32), **replaced})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.wrong_shapes
def test_a_step_is_refused_where_it_would_lose_something() -> None:
    inputs = drawn(dtype=torch.float32)
    state, x = inputs["initial_state"], inputs["x"][:, 0]
    with pytest.raises(InputError, match="give one token"):
        conv_step(state, inputs["x"], inputs["weight"])
    with pytest.raises(InputError, match="state has dtype"):
        conv_step(state.double(), x, inputs["weight"])
    with pytest.raises(InputError, match="no gradients"):
        conv_step(state, x, inputs["weight"].requires_grad_())


def test_the_gpu_kernel_is_not_taken_on_a_cpu() -> None:
    with pytest.raises(BackendError, match="needs a CUDA device"):
        causal_conv(**drawn(), backend="causal_conv1d")
