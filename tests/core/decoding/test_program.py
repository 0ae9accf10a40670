"""The compiled program of a token against torch's layers: every part of a model, side by side and in turns."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from lab.core.decoding.program import MOST_ROWS
from lab.core.errors import InputError
from lab.core.mixers.rotary import RotaryConfig, RotaryKind
from lab.core.mixers.spec import mixer_like, mixers
from lab.core.models.config import DecoderConfig
from lab.core.models.decoder import DecoderLayer, Inputs, LanguageModel
from lab.core.models.decoding_state import DecodingState
from lab.core.models.steps import Steps
from lab.core.models.text_model import TextModel
from lab.core.native.build import load_native
from lab.core.products import current

pytestmark = pytest.mark.skipif(load_native("decode.cpp", "-fopenmp").library is None, reason="no compiler")

PLAIN = RotaryConfig(theta=1e4, max_length=64)
# widths that are no multiples of a register, and group sizes that are no multiples of a tile
SIZES: dict[str, Any] = {
    "num_layers": 2,
    "hidden_size": 27,
    "intermediate_size": 45,
    "num_heads": 6,
    "num_kv_heads": 2,
    "head_dim": 20,
    "vocab_size": 51,
    "rms_norm_eps": 1e-5,
    "rotary": PLAIN,
}
ATTENTION: dict[str, dict[str, Any]] = {
    "plain": {},
    "one query a key": {"num_heads": 2, "head_dim": 8},
    "many wide heads": {"num_heads": 14, "head_dim": 80},
    "biases": {"qkv_bias": True, "output_bias": True, "mlp_bias": True},
    "norms": {"qk_norm": True},
    "tied": {"tie_output": True},
    "windows": {"window": 5, "windowed_layers": [1]},
    "without positions": {"layers_without_rotary": [1]},
    "turned in part": {"rotary": RotaryConfig(theta=1e4, max_length=64, fraction=0.5)},
    "dynamic": {"rotary": RotaryConfig(theta=1e4, max_length=9, kind=RotaryKind.dynamic, factor=2.0)},
}
OTHERS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "mamba2": ("mamba2", {}, {}),
    "mamba2, skip, gate at one": ("mamba2", {"skip": True, "gate_at_one": True}, {}),
    "mamba2, four taps, turned, biases": (
        "mamba2",
        {"conv_kernel": 4, "rotary": True},
        {"qkv_bias": True, "output_bias": True},
    ),
    "mamba2, no convolution, norms": ("mamba2", {"conv_kernel": None}, {"qk_norm": True}),
    "gated_deltanet": ("gated_deltanet", {}, {}),
    "mamba2, gate first": ("mamba2", {"norm_before_gate": False, "norm_eps": 1e-2, "conv_bias": False}, {}),
    "mamba2, gate at one first": (
        "mamba2",
        {"norm_before_gate": False, "gate_at_one": True, "norm_eps": None},
        {"rms_norm_eps": 1e-3},
    ),
    "gated_deltanet, one tap, norms, turned": (
        "gated_deltanet",
        {"conv_kernel": 1, "rotary": True},
        {"qk_norm": True, "head_dim": 64},
    ),
}


def redrawn(model: LanguageModel, dtype: torch.dtype = torch.float32) -> LanguageModel:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator) + float("norm" in name))
    return model.to(dtype).requires_grad_(False).eval()


def attention(**changes: Any) -> LanguageModel:
    return redrawn(TextModel(DecoderConfig(**SIZES | changes)))


def other(name: str, *, layers: tuple[int, ...] = (0, 1), dtype: torch.dtype = torch.float32) -> LanguageModel:
    """A model whose attention in some layers is replaced."""
    kind, options, changes = OTHERS[name]
    model = TextModel(DecoderConfig(**SIZES | changes))
    for index in layers:
        layer = model.llm.layers[index]
        assert isinstance(layer, DecoderLayer)
        layer.mixer = mixer_like(layer.mixer, mixers()[kind].options(**options)).to_empty(device=torch.device("cpu"))
    redrawn(model, dtype)
    model.choose_backends()
    return model


MODELS: dict[str, Callable[[], LanguageModel]] = {
    **{f"attention, {name}": lambda changes=changes: attention(**changes) for name, changes in ATTENTION.items()},
    **{name: lambda name=name: other(name) for name in OTHERS},
    "hybrid": lambda: other("mamba2", layers=(1,)),
}


def text(rows: int, length: int) -> Tensor:
    return torch.randint(0, SIZES["vocab_size"], (rows, length), generator=torch.Generator().manual_seed(rows))


def pieces(tokens: Tensor, prompt: int) -> list[Inputs]:
    sizes = [prompt, *[1] * (tokens.shape[1] - prompt)]
    return [Inputs(tokens=part) for part in tokens.split(sizes, dim=1)]


def states(model: LanguageModel, rows: int, length: int, number: int) -> list[DecodingState]:
    return [model.allocate_state(rows, max_length=length) for _ in range(number)]


def by_torch(model: LanguageModel, inputs: Inputs, state: DecodingState) -> Tensor:
    with torch.no_grad():
        return model(inputs, state)[:, -1]


def assert_close(found: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    assert float((found - expected).abs().max()) <= tolerance * float(expected.abs().max())


@contextmanager
def threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


ROWS_AND_PROMPTS = [(1, 1), (3, 7), (16, 40)]


@pytest.mark.parametrize(("index", "name"), list(enumerate(MODELS)), ids=MODELS)
def test_steps_are_those_of_torch_and_of_the_whole(index: int, name: str) -> None:
    compare(MODELS[name](), *ROWS_AND_PROMPTS[index % 3])


@pytest.mark.slow
@pytest.mark.parametrize(("rows", "prompt"), ROWS_AND_PROMPTS)
@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_all_steps_are_those_of_torch(make: Callable[[], LanguageModel], rows: int, prompt: int) -> None:
    compare(make(), rows, prompt)


def compare(model: LanguageModel, rows: int, prompt: int) -> None:
    tokens = text(rows, prompt + 8)
    ours, theirs = states(model, rows, tokens.shape[1], 2)
    steps = Steps(model, ours)
    assert steps.how == "compiled"
    with torch.no_grad():
        whole = model(Inputs(tokens=tokens))
    for index, inputs in enumerate(pieces(tokens, prompt)):
        found = steps.logits(inputs)
        assert_close(found, by_torch(model, inputs, theirs))
        assert_close(found, whole[:, prompt - 1 + index])
        assert [state.length for state in ours.layers] == [prompt + index] * len(ours.layers)
    for mine, other_one in zip(ours.layers, theirs.layers, strict=True):
        for one, another in zip(mine.tensors(), other_one.tensors(), strict=True):
            torch.testing.assert_close(one, another, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["attention, windows", "mamba2, no convolution, norms", "gated_deltanet"])
def test_the_number_of_threads_changes_no_bit(name: str) -> None:
    model, tokens = MODELS[name](), text(3, 9)
    found = []
    for number in (1, 2):
        with threads(1):
            steps = Steps(model, *states(model, 3, 9, 1))
            steps.logits(Inputs(tokens=tokens[:, :4]))
        with threads(number):
            found.append([steps.logits(inputs).clone() for inputs in pieces(tokens[:, 4:], 1)])
    assert all(one.equal(other_one) for row in found for one, other_one in zip(row, found[0], strict=True))


@pytest.mark.parametrize("name", ["attention, windows", "mamba2", "gated_deltanet", "hybrid"])
def test_torch_and_the_program_take_turns(name: str) -> None:
    model, tokens = MODELS[name](), text(2, 14)
    ours, theirs = states(model, 2, 14, 2)
    steps = Steps(model, ours)
    for index, inputs in enumerate(pieces(tokens, 3)):
        found = by_torch(model, inputs, ours) if index % 3 == 2 else steps.logits(inputs)
        assert_close(found, by_torch(model, inputs, theirs))


@pytest.mark.parametrize("name", ["mamba2, four taps, turned, biases", "gated_deltanet, one tap, norms, turned"])
def test_bfloat16_weights_are_read_as_they_are(name: str) -> None:
    narrow = other(name, layers=(1,), dtype=torch.bfloat16)
    exact = other(name, layers=(1,))
    exact.load_state_dict({key: tensor.float() for key, tensor in narrow.state_dict().items()})
    tokens = text(3, 12)
    steps, twin = (Steps(model, *states(model, 3, 12, 1)) for model in (narrow, exact))
    assert (steps.how, twin.how) == ("compiled", "compiled")
    # from the first token on: what torch computes in bfloat16 is rounded more often
    for inputs in pieces(tokens, 1):
        assert_close(steps.logits(inputs), twin.logits(inputs), 0.02)


def test_a_mixer_without_compiled_steps_is_computed_by_torch() -> None:
    model = other("mamba2", layers=(1,))
    kind = type(model.mixer_layers()[1].layer.mixer)
    changed = type("Changed", (kind,), {"gate": lambda self, normed, logits: normed * torch.tanh(logits)})
    model.mixer_layers()[1].layer.mixer.__class__ = changed
    steps = Steps(model, *states(model, 1, 5, 1))
    assert steps.how == "torch (Changed has another gate than Mamba2)"
    (state,) = states(model, 1, 5, 1)
    for inputs in pieces(text(1, 5), 2):
        assert_close(steps.logits(inputs), by_torch(model, inputs, state), 1e-6)


def hooked(model: LanguageModel) -> None:
    model.mixer_layers()[1].layer.mlp.register_forward_hook(lambda *_: None)


def wrapped(model: LanguageModel) -> None:
    layer = model.mixer_layers()[0].layer
    layer.mlp.gate = torch.nn.Sequential(layer.mlp.gate)  # type: ignore[assignment]


def transposed(model: LanguageModel) -> None:
    down = model.mixer_layers()[0].layer.mlp.down
    down.weight.data = down.weight.data.t().contiguous().t()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (hooked, "SwiGlu has a hook"),
        (wrapped, "Sequential stands in the place of Linear"),
        (transposed, "a tensor is float32 on cpu, not a contiguous float32 tensor on the CPU"),
        (lambda model: model.double(), "the weights are float64"),
    ],
)
def test_what_is_not_what_it_seems_is_computed_by_torch(change: Callable[[LanguageModel], None], reason: str) -> None:
    model = attention()
    change(model)
    assert Steps(model, *states(model, 1, 5, 1)).how == f"torch ({reason})"


def test_products_that_were_asked_for_are_torch_s_to_compute() -> None:
    model = attention()
    with current.using("torch"):
        assert Steps(model, *states(model, 1, 5, 1)).how == "torch (products=torch was asked for)"


def test_two_timescales_are_torch_s_to_compute() -> None:
    model = attention()
    options = mixers()["mamba2"].options(timescales=2)  # type: ignore[call-arg]
    layer = model.llm.layers[1]
    layer.mixer = mixer_like(layer.mixer, options).to_empty(device=torch.device("cpu"))
    redrawn(model)
    model.choose_backends()
    assert Steps(model, *states(model, 1, 5, 1)).how == "torch (timescales=2 has no compiled steps)"


def test_more_rows_are_torch_s_to_compute() -> None:
    model, rows = attention(), MOST_ROWS + 1
    assert Steps(model, *states(model, rows, 5, 1)).how == "torch (there are 17 rows, more than 16)"


def test_a_state_without_room_is_refused_as_by_torch() -> None:
    model, tokens = attention(), text(2, 4)
    steps = Steps(model, *states(model, 2, 3, 1))
    for inputs in pieces(tokens[:, :3], 1):
        steps.logits(inputs)
    with pytest.raises(InputError, match="the state holds 3 of max_length=3 tokens"):
        steps.logits(Inputs(tokens=tokens[:, 3:]))


def test_a_token_without_an_embedding_is_refused_and_changes_nothing() -> None:
    model = attention()
    steps = Steps(model, *states(model, 2, 3, 1))
    tokens = torch.tensor([[1], [51]])
    for length, says in enumerate((r"tokens hold 51 but", r"tokens hold \[1, 51\]")):
        with pytest.raises(InputError, match=says):
            steps.logits(Inputs(tokens=tokens))
        assert steps.state.length == length
        steps.logits(Inputs(tokens=torch.ones_like(tokens)))
