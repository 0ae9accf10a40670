"""Decoding from a state equals the forward pass, token by token."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lab.core.errors import InputError
from lab.core.mixers.rotary import RotaryConfig, RotaryKind
from lab.core.models.config import PixelShuffle
from lab.core.models.decoder import Inputs, LanguageModel
from lab.core.models.families import build_random
from lab.core.models.hovle.config import HovleConfig
from lab.core.models.llama.config import LlamaConfig
from lab.core.models.spec import build

ROTARY = {
    "plain": RotaryConfig(theta=10000.0, max_length=64),
    "linear": RotaryConfig(theta=10000.0, max_length=16, kind=RotaryKind.linear, factor=4.0),
    "dynamic, short": RotaryConfig(theta=10000.0, max_length=64, kind=RotaryKind.dynamic, factor=2.0),
    "dynamic, long": RotaryConfig(theta=10000.0, max_length=16, kind=RotaryKind.dynamic, factor=2.0),
}
BATCH, LENGTH, PROMPT = 2, 30, 17
IMAGE = 49


def drawn(config: HovleConfig | LlamaConfig) -> LanguageModel:
    generator = torch.Generator().manual_seed(0)
    return build_random(config, device=torch.device("cpu"), dtype=torch.float64, generator=generator, std=0.2)


def text(length: int) -> Tensor:
    return torch.randint(0, IMAGE, (BATCH, length), generator=torch.Generator().manual_seed(1))


def with_tiles(num_tokens: int) -> dict[str, Tensor]:
    """A prompt of one tile a row, and what the forward pass of text behind it needs."""
    tiles = torch.randn(BATCH, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    words, marks = text(LENGTH), torch.full((BATCH, num_tokens), IMAGE)
    return {"tokens": torch.cat([words[:, :5], marks, words[:, 5:]], dim=1), "pixel_values": tiles}


def stepwise(model: LanguageModel, prompt: dict[str, Tensor], answer: Tensor, max_lengths: dict[str, int]) -> Tensor:
    state = model.allocate_state(BATCH, **max_lengths)
    logits = [model(Inputs(**prompt), state)]
    logits += [model(Inputs(tokens=answer[:, t : t + 1]), state) for t in range(answer.shape[1])]
    assert state.length == max_lengths["max_length"]
    return torch.cat(logits, dim=1)


@pytest.mark.parametrize("rotary", ROTARY.values(), ids=ROTARY)
def test_a_text_model(tiny_llama: Callable[..., LlamaConfig], rotary: RotaryConfig) -> None:
    model, tokens = drawn(tiny_llama(rotary=rotary)), text(LENGTH)
    found = stepwise(model, {"tokens": tokens[:, :PROMPT]}, tokens[:, PROMPT:], {"max_length": LENGTH})
    torch.testing.assert_close(found, model(Inputs(tokens=tokens)), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("rotary", ROTARY.values(), ids=ROTARY)
def test_tiles_that_are_merged_before_the_holistic_embedding(
    tiny_hovle: Callable[..., HovleConfig], rotary: RotaryConfig
) -> None:
    model, whole = drawn(tiny_hovle(PixelShuffle.pre, rotary=rotary)), with_tiles(4)
    length = whole["tokens"].shape[1]
    prompt = whole | {"tokens": whole["tokens"][:, :PROMPT]}
    found = stepwise(model, prompt, whole["tokens"][:, PROMPT:], {"max_length": length})
    torch.testing.assert_close(found, model(Inputs(**whole)), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("rotary", ROTARY.values(), ids=ROTARY)
def test_tiles_that_are_merged_behind_the_holistic_embedding(
    tiny_hovle: Callable[..., HovleConfig], rotary: RotaryConfig
) -> None:
    model = drawn(tiny_hovle(PixelShuffle.post, rotary=rotary))
    whole = with_tiles(4) | {"hd_tokens": with_tiles(16)["tokens"]}
    lengths = {"max_length": whole["tokens"].shape[1], "hd_max_length": whole["hd_tokens"].shape[1]}
    prompt = whole | {"tokens": whole["tokens"][:, :PROMPT], "hd_tokens": whole["hd_tokens"][:, : PROMPT + 12]}
    found = stepwise(model, prompt, whole["tokens"][:, PROMPT:], lengths)
    torch.testing.assert_close(found, model(Inputs(**whole)), rtol=1e-11, atol=1e-11)


def test_a_prompt_in_pieces_with_a_tile_in_each(tiny_hovle: Callable[..., HovleConfig]) -> None:
    model = drawn(tiny_hovle(PixelShuffle.post))
    piece = with_tiles(4) | {"hd_tokens": with_tiles(16)["tokens"]}
    whole = {
        "tokens": torch.cat([piece["tokens"]] * 2, dim=1),
        "hd_tokens": torch.cat([piece["hd_tokens"]] * 2, dim=1),
        # the tiles of a row are next to each other
        "pixel_values": piece["pixel_values"].repeat_interleave(2, dim=0),
    }
    state = model.allocate_state(BATCH, max_length=68, hd_max_length=92)
    found = torch.cat([model(Inputs(**piece), state) for _ in range(2)], dim=1)
    torch.testing.assert_close(found, model(Inputs(**whole)), rtol=1e-11, atol=1e-11)


def test_a_row_that_is_padded_on_the_right_is_as_if_alone(tiny_hovle: Callable[..., HovleConfig]) -> None:
    model = drawn(tiny_hovle(PixelShuffle.post))
    whole = with_tiles(4) | {"hd_tokens": with_tiles(16)["tokens"]}
    # the second row has no tile: padding of another length in each of the two sequences
    words = text(LENGTH)[1:]
    tokens = torch.cat([whole["tokens"][:1], torch.nn.functional.pad(words, (0, 4))])
    hd_tokens = torch.cat([whole["hd_tokens"][:1], torch.nn.functional.pad(words, (0, 16))])
    tiles = whole["pixel_values"][:1]
    lengths = torch.tensor([LENGTH + 4, LENGTH])
    both = model(Inputs(tokens=tokens, pixel_values=tiles, hd_tokens=hd_tokens, lengths=lengths))
    torch.testing.assert_close(both[1:, :LENGTH], model(Inputs(tokens=words)), rtol=1e-11, atol=1e-11)
    alone = model(Inputs(tokens=tokens[:1], pixel_values=tiles, hd_tokens=hd_tokens[:1]))
    torch.testing.assert_close(both[:1], alone, rtol=1e-11, atol=1e-11)


def test_the_cache_of_the_released_teacher_takes_128_kib_a_token(released: HovleConfig) -> None:
    state = build(released, dtype=torch.bfloat16).allocate_state(1, max_length=1000)
    assert len(state.layers) == 32
    assert state.num_bytes == 131_072 * 1000


@pytest.mark.parametrize("num_tokens", [65, 100])
def test_a_prompt_longer_than_the_native_length_is_refused(
    tiny_llama: Callable[..., LlamaConfig], num_tokens: int
) -> None:
    model = drawn(tiny_llama(rotary=ROTARY["plain"]))
    with pytest.raises(InputError, match=f"has {num_tokens} tokens but the model was trained on at most 64; shorten"):
        model(Inputs(tokens=text(num_tokens)))


def test_a_step_past_the_native_length_is_refused(tiny_llama: Callable[..., LlamaConfig]) -> None:
    model = drawn(tiny_llama(rotary=ROTARY["plain"]))
    state = model.allocate_state(BATCH, max_length=70)
    model(Inputs(tokens=text(64)), state)
    with pytest.raises(InputError, match="has 65 tokens but the model was trained on at most 64"):
        model(Inputs(tokens=text(1)), state)
