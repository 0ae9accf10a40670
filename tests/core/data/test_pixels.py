"""Pictures are read as they are meant to be seen."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from lab.core.data.pixels import upright_rgb
from lab.core.data.tiling import load_image, read_image

NOISE = np.random.default_rng(0).integers(0, 256, (5, 9, 3), dtype=np.uint8)


def stored(image: Image.Image, form: str, **more: Any) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, form, **more)
    return read_image(buffer, "picture")


def grey(image: Image.Image) -> list[int]:
    assert image.mode == "RGB"
    pixels = np.asarray(image)
    assert (pixels[..., :1] == pixels).all()
    return pixels[0, :, 0].tolist()


@pytest.mark.parametrize(("form", "kind"), [("png", "<u2"), ("tiff", "<u2"), ("tiff", ">u2")])
def test_greys_of_16_bits_are_scaled(form: str, kind: str) -> None:
    values = np.array([[0, 128, 257, 32767, 65278, 65535]], dtype=kind)
    assert grey(stored(Image.fromarray(values), form)) == [0, 0, 1, 127, 254, 255]


def test_a_gradient_of_16_bits_keeps_its_mean() -> None:
    values = np.linspace(0, 65535, 1000).astype(np.uint16).reshape(1, -1)
    assert np.mean(grey(stored(Image.fromarray(values), "png"))) == pytest.approx(127.5, abs=0.5)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0, 7, 255]], np.int32), [0, 7, 255]),
        (np.array([[-5, 257, 65535]], np.int32), [0, 1, 255]),
        (np.array([[0, 2**30, 2**31 - 1]], np.int32), [0, 128, 255]),
        (np.array([[0, 0.5, 1, np.nan]], np.float32), [0, 128, 255, 0]),
        (np.array([[0, 2, 254.6, 300]], np.float32), [0, 2, 255, 255]),
    ],
)
def test_greys_of_32_bits_are_scaled_by_what_they_use(values: Any, expected: list[int]) -> None:
    assert grey(upright_rgb(Image.fromarray(values))) == expected


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_is_turned_as_its_camera_says(orientation: int, tmp_path: Path) -> None:
    image = Image.fromarray(NOISE)
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / "photo.png", exif=exif)
    # turned by hand: to the stored picture from the upright one, and back
    methods = [Image.Transpose(value) for value in (0, 3, 1, 5, 4, 6, 2)]
    expected = image if orientation == 1 else image.transpose(methods[orientation - 2])
    np.testing.assert_array_equal(np.asarray(load_image(tmp_path / "photo.png")), np.asarray(expected))
    assert ImageOps.exif_transpose(Image.open(tmp_path / "photo.png")).size == expected.size


def test_damaged_exif_leaves_the_picture() -> None:
    image = stored(Image.fromarray(NOISE), "png", exif=b"Exif\0\0no entries at all")
    np.testing.assert_array_equal(np.asarray(image), NOISE)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "CMYK", "YCbCr", "HSV"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    image = Image.fromarray(NOISE)
    for step in {"RGBa": ("RGBA", "RGBa"), "La": ("LA", "La"), "PA": ("P", "PA")}.get(mode, (mode,)):
        image = image.convert(step)
    found = upright_rgb(image)
    assert (found.mode, found.size) == ("RGB", (9, 5))
    if mode in ("RGB", "RGBA", "CMYK"):
        np.testing.assert_array_equal(np.asarray(found), NOISE)


def test_transparency_is_dropped_as_in_the_public_code() -> None:
    colours = np.dstack([NOISE, np.zeros((5, 9), np.uint8)])
    np.testing.assert_array_equal(np.asarray(stored(Image.fromarray(colours), "png")), NOISE)
    palette = Image.fromarray(NOISE).quantize(8)
    expected = np.asarray(palette.convert("RGB"))
    for transparency in (3, bytes([0, 128, 255])):
        found = stored(palette, "png", transparency=transparency)
        np.testing.assert_array_equal(np.asarray(found), expected)
