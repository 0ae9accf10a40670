"""Attention over caches of several parts and blocks: against a softmax in float64, by any number of threads."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from lab.core.decoding.instructions import PART_TOKENS
from lab.core.mixers.rotary import RotaryConfig
from lab.core.mixers.softmax import KvState
from lab.core.models.config import DecoderConfig
from lab.core.models.decoder import Inputs, draw_weights
from lab.core.models.steps import Steps
from lab.core.models.text_model import TextModel
from lab.core.native.build import load_native

pytestmark = pytest.mark.skipif(load_native("decode.cpp", "-fopenmp").library is None, reason="no compiler")

WIDTH = 24
SHAPES = {"a query a key": (2, 2, 16), "seven queries a key": (7, 1, 20), "wide": (6, 2, 96)}


def one_layer(num_heads: int, num_kv_heads: int, head_dim: int, dtype: torch.dtype, **changes: Any) -> TextModel:
    sizes = {"num_heads": num_heads, "num_kv_heads": num_kv_heads, "head_dim": head_dim}
    rotary = RotaryConfig(theta=1e4, max_length=4 * PART_TOKENS)
    common = {"num_layers": 1, "hidden_size": WIDTH, "intermediate_size": 8, "vocab_size": 9, "rms_norm_eps": 1e-5}
    model = TextModel(DecoderConfig(**sizes, **common, rotary=rotary, **changes))
    draw_weights(model, generator=torch.Generator().manual_seed(1), std=0.3)
    return model.to(dtype).requires_grad_(False).eval()


def filled(model: TextModel, rows: int, length: int) -> Any:
    """A state that has seen so many tokens, with scores that go up and down over the whole length."""
    state = model.allocate_state(rows, max_length=length + 1)
    (layer,) = state.layers
    generator = torch.Generator().manual_seed(2)
    for tensor in layer.tensors():
        tensor.copy_(2 * torch.randn(tensor.shape, generator=generator))
    layer.length = length
    return state


def exact(model: TextModel, state: Any, tokens: Tensor) -> Tensor:
    """The scores in float64, the softmax written out."""
    wide = one_layer(*shape_of(model), torch.float64, window=model.config.window)
    wide.load_state_dict({name: tensor.double() for name, tensor in model.state_dict().items()})
    (layer,) = state.layers
    twin = wide.allocate_state(len(tokens), max_length=layer.max_length)
    (theirs,) = twin.layers
    assert isinstance(theirs, KvState)
    theirs.keys.copy_(layer.keys)
    theirs.values.copy_(layer.values)
    theirs.length = layer.length
    (decoder_layer,) = (each.layer for each in wide.mixer_layers())
    mixer = decoder_layer.mixer
    u = decoder_layer.mixer_input(wide.llm.tokens(tokens))
    mixer.step(u, theirs)
    angles = mixer.rotary.angles(layer.length, layer.length + 1, length=theirs.max_length, like=u)
    q, _, _ = mixer._project(u, angles)
    by_group = q.unflatten(1, (theirs.keys.shape[1], -1))[..., 0, :]
    seen = min(layer.length + 1, theirs.keys.shape[2])
    scores = torch.einsum("bgnp,bgsp->bgns", by_group, theirs.keys[:, :, :seen]) / math.sqrt(q.shape[-1])
    means = torch.einsum("bgns,bgsp->bgnp", scores.softmax(-1), theirs.values[:, :, :seen])
    mixed = mixer.wo(means.flatten(1))[:, None]
    return wide.logits(wide.llm.norm(decoder_layer.after_mixer(wide.llm.tokens(tokens), mixed)))[:, 0]


def shape_of(model: TextModel) -> tuple[int, int, int]:
    return model.config.num_heads, model.config.num_kv_heads, model.config.head_dim


@pytest.mark.parametrize("length", [PART_TOKENS - 1, PART_TOKENS, 2 * PART_TOKENS + 1029])
@pytest.mark.parametrize("name", SHAPES)
def test_a_step_is_the_softmax_written_out(name: str, length: int) -> None:
    model, tokens = one_layer(*SHAPES[name], torch.float32), torch.tensor([[3], [8]])
    state = filled(model, 2, length)
    expected = exact(model, state, tokens)
    steps = Steps(model, state)
    assert steps.how == "compiled"
    before, found = torch.get_num_threads(), []
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            state.layers[0].length = length
            found.append(steps.logits(Inputs(tokens=tokens)).clone())
    finally:
        torch.set_num_threads(before)
    assert found[0].equal(found[1])
    assert float((found[0] - expected).abs().max()) <= 1e-5 * float(expected.abs().max())


def test_a_window_of_several_parts() -> None:
    model, tokens = one_layer(2, 1, 16, torch.float32, window=PART_TOKENS + 100), torch.tensor([[3]])
    state = filled(model, 1, 2 * PART_TOKENS)
    expected = exact(model, state, tokens)
    found = Steps(model, state).logits(Inputs(tokens=tokens))
    assert float((found - expected).abs().max()) <= 1e-5 * float(expected.abs().max())


def test_bfloat16_caches_are_read_as_they_are() -> None:
    model, tokens = one_layer(*SHAPES["wide"], torch.bfloat16), torch.tensor([[3]])
    state = filled(model, 1, PART_TOKENS + 777)
    expected = exact(model, state, tokens)
    found = Steps(model, state).logits(Inputs(tokens=tokens))
    assert float((found - expected).abs().max()) <= 1e-3 * float(expected.abs().max())
