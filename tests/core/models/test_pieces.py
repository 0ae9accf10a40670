"""A prompt in pieces: the state and the scores of one pass, no tile cut, memory that does not grow with the prompt."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lab.core.errors import InputError
from lab.core.mixers.mamba2 import Mamba2Options
from lab.core.mixers.rotary import RotaryConfig, RotaryKind
from lab.core.mixers.spec import mixer_like
from lab.core.models import steps as steps_module
from lab.core.models.config import PixelShuffle
from lab.core.models.decoder import Inputs, LanguageModel
from lab.core.models.families import build_random
from lab.core.models.hovle.config import HovleConfig
from lab.core.models.pieces import pieces
from lab.core.models.steps import Steps

BATCH, IMAGE = 2, 49
DYNAMIC = RotaryConfig(theta=1e4, max_length=16, kind=RotaryKind.dynamic, factor=2.0)


def hybrid(config: HovleConfig) -> LanguageModel:
    """The first layer is attention, all others are Mamba-2."""
    generator = torch.Generator().manual_seed(0)
    model = build_random(config, device=torch.device("cpu"), dtype=torch.float64, generator=generator, std=0.2)
    for layer in model.mixer_layers()[1:]:
        mixer = mixer_like(layer.layer.mixer, Mamba2Options()).to_empty(device=torch.device("cpu"))
        for parameter in mixer.parameters():
            parameter.data.normal_(std=0.2, generator=generator)
        layer.layer.mixer = mixer
    return model.eval()


def prompt(shuffle: PixelShuffle, *, hd_size: int = 16) -> Inputs:
    """Text, two tiles behind each other, text, a tile, text; the rows differ."""
    generator = torch.Generator().manual_seed(1)
    words = torch.randint(0, IMAGE, (BATCH, 30), generator=generator)

    def with_tiles(size: int) -> Tensor:
        tile = torch.full((BATCH, size), IMAGE)
        return torch.cat([words[:, :5], tile, tile, words[:, 5:14], tile, words[:, 14:]], dim=1)

    tiles = torch.randn(3 * BATCH, 3, 16, 16, dtype=torch.float64, generator=generator)
    hd_tokens = with_tiles(hd_size) if shuffle is PixelShuffle.post else None
    return Inputs(tokens=with_tiles(4), pixel_values=tiles, hd_tokens=hd_tokens)


def sizes(inputs: Inputs, config: HovleConfig, most: int) -> list[int]:
    parts = list(pieces(inputs, config.vision, most=most))
    assert torch.cat([part.tokens for part in parts], dim=1).equal(inputs.tokens)
    if inputs.hd_tokens is not None:
        assert torch.cat([part.hd_tokens for part in parts], dim=1).equal(inputs.hd_tokens)
    return [part.tokens.shape[1] for part in parts]


@pytest.mark.parametrize("most", [1, 7, 20])
@pytest.mark.parametrize("shuffle", PixelShuffle)
def test_pieces_give_the_state_and_scores_of_one_pass(
    tiny_hovle: Callable[..., HovleConfig], monkeypatch: pytest.MonkeyPatch, shuffle: PixelShuffle, most: int
) -> None:
    config = tiny_hovle(shuffle, rotary=DYNAMIC)
    model, inputs = hybrid(config), prompt(shuffle)
    monkeypatch.setattr(steps_module, "pieces", lambda inputs, vision: pieces(inputs, vision, most=most))
    lengths = {"max_length": 42, "hd_max_length": None if inputs.hd_tokens is None else inputs.hd_tokens.shape[1]}
    in_pieces, at_once = (model.allocate_state(BATCH, **lengths) for _ in range(2))
    with torch.no_grad():
        expected = model(inputs, at_once)[:, -1]
    found = Steps(model, in_pieces).logits(inputs)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)
    for one, other in zip(in_pieces.layers, at_once.layers, strict=True):
        assert one.length == other.length
        for mine, theirs in zip(one.tensors(), other.tensors(), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-11, atol=1e-11)


def test_no_tile_is_cut(tiny_hovle: Callable[..., HovleConfig]) -> None:
    pre, post = (tiny_hovle(shuffle) for shuffle in PixelShuffle)
    assert sizes(prompt(PixelShuffle.pre), pre, 1) == [1] * 5 + [4, 4] + [1] * 9 + [4] + [1] * 16
    assert sizes(prompt(PixelShuffle.pre), pre, 7) == [5, 4, 7, 6, 7, 7, 6]
    # a tile has 16 of the tokens that the first layers read
    assert sizes(prompt(PixelShuffle.post), post, 20) == [5, 4, 8, 5, 8, 12]


def test_tiles_at_other_places_in_each_row() -> None:
    generator = torch.Generator().manual_seed(1)
    row = torch.randint(0, IMAGE, (12,), generator=generator)
    mark = torch.full((4,), IMAGE)
    tokens = torch.stack([torch.cat([mark, row]), torch.cat([row[:2], mark, row[2:]])])
    config = Inputs(tokens=tokens, pixel_values=torch.arange(2.0).reshape(2, 1, 1, 1))
    vision = type("Vision", (), {"image_token_id": IMAGE})
    parts = list(pieces(config, vision, most=3))  # type: ignore[arg-type]
    # the first cut is behind both tiles
    assert [part.tokens.shape[1] for part in parts] == [6, 3, 3, 3, 1]
    assert parts[0].pixel_values is not None
    assert len(parts[0].pixel_values) == 2
    assert all(part.pixel_values is None for part in parts[1:])


def test_what_does_not_match_or_is_padded_is_one_piece(tiny_hovle: Callable[..., HovleConfig]) -> None:
    vision = tiny_hovle(PixelShuffle.post).vision
    whole = prompt(PixelShuffle.post)
    padded = Inputs(tokens=whole.tokens, lengths=torch.tensor([42, 40]))
    one_tile_less = Inputs(tokens=whole.tokens, pixel_values=whole.pixel_values[1:])
    shorter = Inputs(tokens=whole.tokens, pixel_values=whole.pixel_values, hd_tokens=whole.hd_tokens[:, :-1])
    for inputs in (padded, one_tile_less, shorter):
        assert list(pieces(inputs, vision, most=5)) == [inputs]


def test_an_unknown_token_at_the_end_is_refused_before_anything_is_read(tiny_hovle: Callable[..., HovleConfig]) -> None:
    model = hybrid(tiny_hovle(PixelShuffle.pre))
    tokens = torch.zeros(1, 2000, dtype=torch.int64)
    tokens[0, -1] = 77
    state = model.allocate_state(1, max_length=2000)
    with pytest.raises(InputError, match="tokens hold 77"):
        Steps(model, state).logits(Inputs(tokens=tokens))
    assert state.length == 0
