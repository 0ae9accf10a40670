"""Pictures are read as they are meant to be seen."""

import io
import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from lab.core.data.bad_samples import BadSample, Reason
from lab.core.data.pixels import fault_of, ignore_warnings_of_pillow, upright_rgb
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
        (np.array([[0, 257, 65535]], np.int32), [0, 1, 255]),
        (np.array([[-0.001, 0.5, 1, 1.001]], np.float32), [0, 128, 255, 255]),
        (np.array([[0, 2, 254.6, 256]], np.float32), [0, 2, 255, 255]),
    ],
)
def test_greys_of_32_bits_are_scaled_by_what_they_use(values: Any, expected: list[int]) -> None:
    assert grey(upright_rgb(Image.fromarray(values))) == expected


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (np.array([[0, 70000]], np.int32), "has greys from 0 to 70000, of which .*; scale them to 255 or 65535"),
        (np.array([[-5, 257]], np.int32), "has greys from -5 to 257"),
        (np.array([[0, 4000]], np.float32), "has greys from 0 to 4000, of which .*; scale them to 1 or 255"),
        (np.array([[-0.5, 0.5]], np.float32), "has greys from -0.5 to 0.5"),
        (np.array([[0.5, np.inf]], np.float32), "has greys from 0 to inf"),
        (np.array([[0.5, np.nan]], np.float32), "has greys from nan to nan"),
    ],
)
def test_greys_whose_white_is_not_known_are_a_bad_sample(values: Any, says: str) -> None:
    with pytest.raises(BadSample, match=f"picture {says}") as raised:
        stored(Image.fromarray(values), "tiff")
    assert raised.value.reason is Reason.unknown_white


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


def jpeg_with(*entries: tuple[int, int, bytes]) -> io.BytesIO:
    """A picture of 9 x 5 pixels with the orientation 6, and other entries: tag, type, four bytes."""
    written = [(0x0112, 3, struct.pack("<HH", 6, 0)), *entries]
    exif = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(written))
    exif += b"".join(struct.pack("<HHL", tag, kind, 1) + value for tag, kind, value in written) + bytes(4)
    Image.fromarray(NOISE).save(buffer := io.BytesIO(), "JPEG", exif=exif)
    return buffer


@pytest.mark.parametrize(
    "entry",
    [(0x011A, 2, b"7\0\0\0"), (0x0128, 2, b"2\0\0\0"), (0x0128, 8, b"\xfe\xff\0\0"), (0x0100, 9, b"\xfb\xff\xff\xff")],
    ids=["a text as a resolution", "a text as a unit", "a negative unit", "a negative width"],
)
def test_entries_of_the_wrong_type_leave_the_picture_upright(entry: tuple[int, int, bytes]) -> None:
    assert read_image(jpeg_with(entry), "photo").size == (5, 9)


@pytest.mark.parametrize(
    "error", [TypeError("no"), struct.error("no"), AttributeError("no"), IndexError(), KeyError(1)]
)
def test_whatever_a_damaged_picture_raises_it_is_a_bad_sample(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(image: Image.Image) -> None:
        raise error

    monkeypatch.setattr("PIL.JpegImagePlugin.JpegImageFile.load", load)
    with pytest.raises(BadSample, match="photo is not an image that can be read") as raised:
        read_image(jpeg_with(), "photo")
    assert raised.value.reason is Reason.cut_image


def test_an_error_is_the_same_in_every_process() -> None:
    with pytest.raises(BadSample, match=r"\(its content is none of BMP, GIF, .*, WEBP\); give a PNG"):
        read_image(io.BytesIO(b"<html>"), "image 1")
    assert fault_of(ValueError(f"cannot read {io.BytesIO()}")) == "cannot read it"


def test_warnings_of_pillow_are_not_printed() -> None:
    Image.fromarray(NOISE).save(buffer := io.BytesIO(), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\x05\0")
    with warnings.catch_warnings(record=True) as caught:
        warnings.resetwarnings()
        ignore_warnings_of_pillow()
        assert read_image(buffer, "photo").size == (9, 5)
    assert caught == []


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
