"""Tiles are those of the public code, and a file that is not an image is refused by name."""

import json
from errno import EACCES
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lab.core.data.bad_samples import BadSample, Reason
from lab.core.data.batch import normalize
from lab.core.data.picture_format import Fit, PictureConfig, TowerFormat
from lab.core.data.prompt_format import PromptFormat
from lab.core.data.tiling import choose_grid, cut_tiles, load_image
from lab.core.errors import ConfigError, InputError

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "tiling.json").read_text())


def noise(width: int, height: int, mode: str = "RGB") -> Image.Image:
    shape = (height, width, 3) if mode == "RGB" else (height, width)
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))


def with_thumbnail(columns: int, rows: int) -> int:
    return columns * rows + (columns * rows > 1)


@pytest.mark.parametrize("row", GOLDEN, ids=lambda row: f"{row['width']}x{row['height']}, {row['max_tiles']}")
def test_the_grid_is_that_of_the_public_code(row: dict[str, int]) -> None:
    tiling = PromptFormat(max_tiles=row["max_tiles"])
    assert choose_grid(row["width"], row["height"], tiling) == (row["columns"], row["rows"])
    assert with_thumbnail(row["columns"], row["rows"]) == row["tiles_with_thumbnail"]


@given(width=st.integers(1, 300), height=st.integers(1, 300), max_tiles=st.integers(1, 12))
def test_as_many_tiles_are_cut_as_the_grid_has_and_a_thumbnail(width: int, height: int, max_tiles: int) -> None:
    tiling = PromptFormat(image_size=8, patch_size=4, max_tiles=max_tiles)
    columns, rows = choose_grid(width, height, tiling)
    assert 1 <= columns * rows <= max_tiles
    assert cut_tiles(noise(width, height), tiling).shape == (with_thumbnail(columns, rows), 8, 8, 3)


def test_tiles_come_row_by_row_and_the_thumbnail_last() -> None:
    image = noise(24, 16)
    tiles = cut_tiles(image, PromptFormat(image_size=8, patch_size=4, max_tiles=6))
    boxes = [(x, y, x + 8, y + 8) for y in (0, 8) for x in (0, 8, 16)]
    for tile, box in zip(tiles[:6], boxes, strict=True):
        np.testing.assert_array_equal(tile, np.asarray(image.crop(box)))
    np.testing.assert_array_equal(tiles[6], np.asarray(image.resize((8, 8), Image.Resampling.BICUBIC)))


def test_a_picture_is_stretched_to_its_grid_by_bicubic_interpolation() -> None:
    image = noise(37, 20)
    tiles = cut_tiles(image, PromptFormat(image_size=8, patch_size=4, max_tiles=2))[:2]
    stretched = np.asarray(image.resize((16, 8), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(np.concatenate(list(tiles), axis=1), stretched)


def test_pixels_are_normalised_with_the_statistics_of_imagenet() -> None:
    tiles = np.zeros((1, 2, 2, 3), np.uint8)
    tiles[0, 0, 1] = (255, 51, 102)
    # as the pixels of a picture of Pillow's
    tiles.setflags(write=False)
    pixels = normalize(tiles)
    assert pixels.shape == (1, 3, 2, 2)
    assert pixels.dtype == torch.float32
    expected = (np.array([1, 0.2, 0.4]) - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    black = np.array([-0.485, -0.456, -0.406]) / [0.229, 0.224, 0.225]
    # float32 pixels less a mean of the same size
    np.testing.assert_allclose(pixels[0, :, 0, 1], expected, atol=1e-6)
    np.testing.assert_allclose(pixels[0, :, 1, 0], black, atol=1e-6)


def test_hovle_has_1024_patches_and_256_tokens_a_tile_and_at_most_13_tiles() -> None:
    tiling = PromptFormat()
    assert (tiling.patches_per_tile, tiling.tokens_per_tile) == (1024, 256)
    assert with_thumbnail(*choose_grid(4000, 3000, tiling)) == 13


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "I;16", "CMYK", "1"])
def test_pictures_of_every_mode_become_rgb(mode: str, tmp_path: Path) -> None:
    path = tmp_path / "picture.tiff"
    image = Image.new("I;16", (9, 5)) if mode == "I;16" else noise(9, 5).convert(mode)
    image.save(path)
    assert cut_tiles(load_image(path), PromptFormat(image_size=8, patch_size=4)).shape[1:] == (8, 8, 3)


@pytest.mark.parametrize("content", [b"", b"no image at all", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0 cut"])
def test_a_file_that_is_no_image_is_refused_by_name(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"photo\.png is not an image") as caught:
        load_image(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("extension", ["png", "jpeg", "gif", "webp", "bmp"])
def test_an_image_cut_short_at_any_byte_is_refused_or_whole(extension: str, tmp_path: Path) -> None:
    buffer = BytesIO()
    noise(6, 5).save(buffer, extension)
    content = buffer.getvalue()
    path = tmp_path / f"photo.{extension}"
    for length in range(0, len(content), max(1, len(content) // 40)):
        path.write_bytes(content[:length])
        try:
            size = load_image(path).size
        except InputError as error:
            size = (6, 5) if f"photo.{extension}" in str(error) else (0, 0)
        assert size == (6, 5)


def test_a_missing_image_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"photo\.png does not exist"):
        load_image(tmp_path / "photo.png")
    with pytest.raises(InputError, match="it is a folder"):
        load_image(tmp_path)


def test_a_name_that_cannot_be_opened_is_a_bad_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # the Base64 of a picture without `data:` before it
    with pytest.raises(BadSample, match=r"A…A+ cannot be opened \(File name too long\); .* data: URL") as raised:
        load_image(tmp_path / ("A" * 6000))
    assert len(str(raised.value)) < 400
    assert raised.value.reason is Reason.unreadable_image

    def forbid(*_: object, **__: object) -> None:
        raise PermissionError(EACCES, "Permission denied", "photo.png")

    monkeypatch.setattr(Image, "open", forbid)
    with pytest.raises(BadSample, match=r"photo\.png cannot be opened \(Permission denied\); give the path"):
        load_image(tmp_path / "photo.png")


def test_an_image_of_far_too_many_pixels_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "photo.png"
    noise(20, 20).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(InputError, match=r"photo\.png has more pixels"):
        load_image(path)


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"image_size": 0}, "image_size=0"),
        ({"patch_size": 15}, "patch_size=15"),
        ({"max_tiles": 0}, "max_tiles=0"),
        ({"shuffle_factor": 0}, "shuffle_factor=0"),
        ({"shuffle_factor": 3}, "shuffle_factor=3 must divide the 32 patches"),
        ({"shuffle_factor": 64}, "shuffle_factor=64 must divide"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, float], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        PromptFormat(**settings)  # type: ignore[arg-type]


def cropping(edge: int, side: int) -> PromptFormat:
    pictures = PictureConfig(fit=Fit.crop, size=side, edge=edge)
    return PromptFormat(tower=TowerFormat(pictures=pictures, tokens_per_tile=1, image_token_id=0))


@given(width=st.integers(1, 90), height=st.integers(1, 90), edge=st.integers(8, 20))
def test_the_middle_is_that_of_the_whole_picture_enlarged(width: int, height: int, edge: int) -> None:
    image, shorter = noise(width, height), min(width, height)
    enlarged = np.asarray(image.resize((int(edge * width / shorter), int(edge * height / shorter))))
    top, left = ((length - 8) // 2 for length in enlarged.shape[:2])
    np.testing.assert_array_equal(cut_tiles(image, cropping(edge, 8))[0], enlarged[top : top + 8, left : left + 8])


@pytest.mark.parametrize("size", [(1, 2000), (2000, 1)])
def test_a_picture_too_narrow_to_enlarge_is_a_bad_sample(size: tuple[int, int]) -> None:
    image, (width, height) = Image.new("RGB", size), size
    with pytest.raises(BadSample) as refusal:
        cut_tiles(image, cropping(336, 336))
    assert str(refusal.value) == (
        f"a picture of {width} x {height} pixels is too narrow: it would be enlarged to {336 * width} x "
        f"{336 * height}, of which the model sees 336 x 336; crop it"
    )
    assert refusal.value.reason is Reason.too_narrow
    assert cut_tiles(image, cropping(8, 8)).shape == (1, 8, 8, 3)


def test_fewer_tiles_than_the_image_processor_makes_are_refused() -> None:
    pictures = PictureConfig(fit=Fit.tiles, size=8, min_tiles=3, max_tiles=6)
    tower = TowerFormat(pictures=pictures, tokens_per_tile=1, image_token_id=0)
    assert choose_grid(8, 24, PromptFormat(tower=tower, image_size=8, max_tiles=3)) == (1, 3)
    with pytest.raises(ConfigError, match=r"^prompt\.max_tiles=2 is below min_patches=3 of the teacher's image proc"):
        PromptFormat(tower=tower, image_size=8, max_tiles=2)


def test_a_picture_without_pixels_is_refused() -> None:
    with pytest.raises(InputError, match="0 x 5"):
        choose_grid(0, 5, PromptFormat())
