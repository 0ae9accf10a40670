"""HoVLE's size and keys, tiles of other sizes, and tokens that do not fit their tiles."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from lab.core.errors import ConfigError, InputError
from lab.core.models.config import PixelShuffle, VisionConfig
from lab.core.models.decoder import Inputs
from lab.core.models.families import build_random
from lab.core.models.hovle.config import HovleConfig
from lab.core.models.hovle.model import Hovle, shuffle_pixels
from lab.core.models.spec import build, key_map

IMAGE = 49


def drawn(config: HovleConfig) -> Hovle:
    generator = torch.Generator().manual_seed(0)
    model = build_random(config, device=torch.device("cpu"), dtype=torch.float64, generator=generator, std=0.2)
    assert isinstance(model, Hovle)
    return model


def tokens(*rows: list[int]) -> Tensor:
    return torch.tensor(rows)


def tiles(num: int, height: int = 16, width: int = 16) -> Tensor:
    return torch.randn(num, 3, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_the_released_model_has_the_published_number_of_tensors_and_parameters(released: HovleConfig) -> None:
    model = build(released)
    public = key_map(model).to_public(model.state_dict())
    assert len(public) == 236
    assert sum(tensor.numel() for tensor in public.values()) == 2_606_327_808
    assert sum(parameter.numel() for parameter in model.parameters()) == 2_606_327_808
    assert all(parameter.is_meta for parameter in model.parameters())


def test_the_released_model_has_the_published_keys_and_shapes(released: HovleConfig) -> None:
    layer = {
        "attention.wqkv.weight": (4096, 2048),
        "attention.wo.weight": (2048, 2048),
        "feed_forward.w1.weight": (8192, 2048),
        "feed_forward.w3.weight": (8192, 2048),
        "feed_forward.w2.weight": (2048, 8192),
        "attention_norm.weight": (2048,),
        "ffn_norm.weight": (2048,),
    }
    published = {
        "embedding_model.vision_embeddings.class_embedding": (1, 1, 2048),
        "embedding_model.vision_embeddings.patch_embedding.weight": (2048, 3, 14, 14),
        "embedding_model.vision_embeddings.patch_embedding.bias": (2048,),
        "embedding_model.vision_embeddings.position_embedding": (1, 1025, 2048),
        "embedding_model.llm_text_embeddings.weight": (92553, 2048),
        "embedding_model.pixel_shuffle_proj.0.weight": (2048, 8192),
        "embedding_model.pixel_shuffle_proj.0.bias": (2048,),
        "embedding_model.pixel_shuffle_proj.2.weight": (2048, 2048),
        "embedding_model.pixel_shuffle_proj.2.bias": (2048,),
        "language_model.model.tok_embeddings.weight": (92553, 2048),
        "language_model.model.norm.weight": (2048,),
        "language_model.output.weight": (92553, 2048),
    }
    stacks = {"embedding_model.encoder": 8, "language_model.model.layers": 24}
    for stack, num_layers in stacks.items():
        for i in range(num_layers):
            published |= {f"{stack}.{i}.{name}": shape for name, shape in layer.items()}
    model = build(released)
    found = {name: tuple(tensor.shape) for name, tensor in key_map(model).to_public(model.state_dict()).items()}
    assert found == published
    assert released.vision.tokens_per_tile == 256
    assert [layer.index for layer in model.mixer_layers()] == list(range(32))


def test_every_tensor_of_ours_has_one_public_home(golden: Path, teacher: Hovle) -> None:
    rules = key_map(teacher).rules
    assert sorted(name for rule in rules for name in rule.ours) == sorted(teacher.state_dict())
    with safe_open(golden / "model.safetensors", framework="pt") as file:
        assert sorted(name for rule in rules for name in rule.public) == sorted(file.keys())


def test_positions_of_another_grid_are_those_of_cubic_convolution(tiny_hovle: Callable[..., HovleConfig]) -> None:
    vision = drawn(tiny_hovle()).embedding.vision
    table = vision.position_embedding.detach()[0, 1:].reshape(4, 4, -1)
    blank = torch.zeros(1, 3, 24, 8, dtype=torch.float64)
    with torch.no_grad():
        found = vision(blank)[0] - vision.patch_embedding.bias[:, None, None]
    resized = torch.einsum("hi,wj,ijd->dhw", cubic_convolution(4, 6), cubic_convolution(4, 2), table)
    torch.testing.assert_close(found, resized, rtol=1e-12, atol=1e-12)


def cubic_convolution(old: int, new: int) -> Tensor:
    """The matrix that resizes a line (Keys 1981, a = -0.75), sample centres aligned and the border repeated."""
    a, matrix = -0.75, torch.zeros(new, old, dtype=torch.float64)
    for i in range(new):
        at = (i + 0.5) * old / new - 0.5
        for j in range(math.floor(at) - 1, math.floor(at) + 3):
            d = abs(at - j)
            near, far = (a + 2) * d**3 - (a + 3) * d**2 + 1, a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
            matrix[i, min(max(j, 0), old - 1)] += near if d <= 1 else far if d < 2 else 0.0
    return matrix


def test_the_class_slot_of_the_position_table_is_not_used(tiny_hovle: Callable[..., HovleConfig]) -> None:
    model = drawn(tiny_hovle())
    before = model.embedding.vision(tiles(1))
    with torch.no_grad():
        model.embedding.vision.position_embedding[:, 0] += 1
        model.embedding.vision.class_embedding += 1
    assert model.embedding.vision(tiles(1)).equal(before)


def test_four_patches_become_one_token_row_by_row() -> None:
    # patch (row, column) holds the channels 1000 row + 10 column + channel
    grid = 1000 * torch.arange(4)[None, :, None] + 10 * torch.arange(6)[None, None, :] + torch.arange(2)[:, None, None]
    merged = shuffle_pixels(grid[None].double(), 2)[0]
    assert merged.shape == (6, 8)
    assert merged[0].tolist() == [0, 1, 10, 11, 1000, 1001, 1010, 1011]
    assert merged[4].tolist() == [2020, 2021, 2030, 2031, 3020, 3021, 3030, 3031]


def test_a_tile_of_another_size_is_read(tiny_hovle: Callable[..., HovleConfig]) -> None:
    row = tokens([1, *[IMAGE] * 6, 2])
    assert drawn(tiny_hovle())(Inputs(tokens=row, pixel_values=tiles(1, 16, 24))).shape == (1, 8, 50)
    hd_row = tokens([1, *[IMAGE] * 24, 2])
    both = Inputs(tokens=row, pixel_values=tiles(1, 16, 24), hd_tokens=hd_row)
    assert drawn(tiny_hovle(PixelShuffle.post))(both).shape == (1, 8, 50)


def test_tiles_go_to_their_rows_in_order(tiny_hovle: Callable[..., HovleConfig]) -> None:
    model, both = drawn(tiny_hovle()), tiles(2)
    rows = tokens([1, *[IMAGE] * 4, 2], [3, *[IMAGE] * 4, 4])
    together = model(Inputs(tokens=rows, pixel_values=both))
    alone = torch.cat([model(Inputs(tokens=rows[i : i + 1], pixel_values=both[i : i + 1])) for i in range(2)])
    torch.testing.assert_close(together, alone, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("row", "num_tiles", "message"),
    [
        ([1, *[IMAGE] * 5, 2], 1, "hold 5 image tokens but the tiles in pixel_values make 4"),
        ([1, *[IMAGE] * 4, 2], 2, "hold 4 image tokens but the tiles in pixel_values make 8"),
        ([1, 2, 3], 1, "hold 0 image tokens but the tiles in pixel_values make 4"),
        ([1, IMAGE, 3], 0, "tokens hold image tokens but there are no pixel_values"),
        ([1, 50, 3], 0, r"tokens hold 50 but ids must lie in 0 \.\. 49"),
        ([1, -1, 3], 0, r"tokens hold -1 but ids must lie in 0 \.\. 49"),
    ],
)
def test_tokens_that_do_not_fit_their_tiles_are_refused(
    tiny_hovle: Callable[..., HovleConfig], row: list[int], num_tiles: int, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        drawn(tiny_hovle())(Inputs(tokens=tokens(row), pixel_values=tiles(num_tiles) if num_tiles else None))


def test_an_image_without_hd_tokens_is_refused(tiny_hovle: Callable[..., HovleConfig]) -> None:
    with pytest.raises(InputError, match="hd_tokens are missing"):
        drawn(tiny_hovle(PixelShuffle.post))(Inputs(tokens=tokens([1, *[IMAGE] * 4]), pixel_values=tiles(1)))


def test_hd_tokens_that_nobody_reads_are_refused(tiny_hovle: Callable[..., HovleConfig]) -> None:
    with pytest.raises(InputError, match="hd_tokens are for pixel shuffle 'post'"):
        drawn(tiny_hovle())(Inputs(tokens=tokens([1, 2]), hd_tokens=tokens([1, 2])))


@pytest.mark.parametrize("lengths", [None, torch.tensor([7])])
def test_hd_tokens_with_less_text_are_refused(tiny_hovle: Callable[..., HovleConfig], lengths: Tensor | None) -> None:
    model = drawn(tiny_hovle(PixelShuffle.post))
    row, hd_row = tokens([1, *[IMAGE] * 4, 2, 3]), tokens([1, *[IMAGE] * 16, 2])
    with pytest.raises(InputError, match="row 0: tokens hold 3 text tokens but hd_tokens hold 2"):
        model(Inputs(tokens=row, pixel_values=tiles(1), hd_tokens=hd_row, lengths=lengths))


def test_a_tile_that_does_not_divide_into_squares_is_refused(tiny_hovle: Callable[..., HovleConfig]) -> None:
    with pytest.raises(InputError, match="a tile has 3 x 4 patches, which do not divide into squares of 2 x 2"):
        drawn(tiny_hovle())(Inputs(tokens=tokens([1, *[IMAGE] * 3]), pixel_values=tiles(1, 12, 16)))


def test_a_text_table_of_another_size_than_the_language_model_is_refused(
    tiny_hovle: Callable[..., HovleConfig],
) -> None:
    config = tiny_hovle()
    config.embedding.vocab_size = 51
    with pytest.raises(ConfigError, match=r"embedding\.vocab_size=51 must be llm\.vocab_size=50"):
        HovleConfig(vision=config.vision, embedding=config.embedding, llm=config.llm)


def test_a_tile_that_does_not_divide_into_patches_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"vision\.image_size=20 must be a multiple of patch_size=4 times"):
        VisionConfig(
            image_size=20,
            patch_size=4,
            num_channels=3,
            shuffle_factor=2,
            pixel_shuffle=PixelShuffle.pre,
            image_token_id=1,
        )
