"""A picture as it is meant to be seen: upright, with eight bits a colour, in RGB, whatever its file holds."""

import re
import warnings

import numpy as np
from PIL import Image, UnidentifiedImageError

# Pillow knows forty more, some of which run another program (EPS) or are rarely met and rarely tested
FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
# of files in these formats
ENDINGS = frozenset(
    "apng bmp dib gif j2c j2k jfif jp2 jpc jpe jpeg jpf jpg jpx mpo pbm pfm pgm png pnm ppm tif tiff webp".split()  # noqa: SIM905
)
_ORIENTATION = 0x0112
# what turns a picture upright, by its EXIF entry
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_WHITE_OF_16_BITS = 65535
# by which floats leave their range where a picture was resized
_OVERSHOOT = 0.01
# the default repr of a Python object
_OBJECT = re.compile(r"<[^<>]* at 0x[0-9a-fA-F]+>")


class UnknownWhiteError(ValueError):
    """A grey picture of 32 bits that leaves open which value is white; the message begins with a verb."""


def ignore_warnings_of_pillow() -> None:
    """From now on, what Pillow warns of is not printed: entries of EXIF that are damaged, pictures that are large.

    Such a picture is read whole or refused, and a file of conversations has thousands.
    """
    warnings.filterwarnings("ignore", module=r"PIL\.")


ignore_warnings_of_pillow()


def upright_rgb(image: Image.Image) -> Image.Image:
    """The picture turned as its EXIF entry says, in RGB.

    Greys of 16 or 32 bits are scaled, where Pillow would cut them at 255. Transparency is dropped, not blended with a
    colour: what is trained on is what the public code of InternVL shows its models.

    Raises:
        UnknownWhiteError: if integers are not from 0 to 65,535, or floats not from 0 to 1 or 255, or not finite.
        ValueError: if there is no way from its mode to RGB.
    """
    method = _turn(image)
    if method is not None:
        # `exif_transpose` writes all other entries again, too, and fails at one of another type than its tag has
        image = image.transpose(method)
    if image.mode.startswith("I") or image.mode == "F":
        return _eight_bits(image).convert("RGB")
    # colours that are multiplied by their opacity, and palettes with several transparent entries
    middle = {"RGBa": "RGBA", "La": "LA"}.get(image.mode)
    if image.mode == "P" and "transparency" in image.info:
        middle = "RGBA"
    return (image if middle is None else image.convert(middle)).convert("RGB")


def fault_of(error: Exception) -> str:
    """What an error of Pillow says, without the name of the file and the address of an object, which is random."""
    if isinstance(error, UnidentifiedImageError):
        return f"its content is none of {', '.join(FORMATS)}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return _OBJECT.sub("it", str(error)) or type(error).__name__


def _turn(image: Image.Image) -> Image.Transpose | None:
    try:
        return _UPRIGHT.get(image.getexif().get(_ORIENTATION, 1))
    # a damaged entry raises whatever its reader met; the picture itself is whole
    except Exception:
        return None


def _eight_bits(image: Image.Image) -> Image.Image:
    """A grey picture of 16 or 32 bits, or of floats, with 8 bits: white is the largest value of its kind.

    In 32 bits fewer are used: 255 is white if no pixel exceeds it, else 65535. Floats are from 0 to 1, or to 255 if a
    pixel exceeds 1.
    """
    values = np.asarray(image).astype(np.float64)
    lowest, largest = float(values.min(initial=0)), float(values.max(initial=0))
    if image.mode.startswith("I;"):
        whites: tuple[int, ...] = (_WHITE_OF_16_BITS,)
        tolerance = 0.0
    else:
        whites, tolerance = ((1, 255), _OVERSHOOT) if image.mode == "F" else ((255, _WHITE_OF_16_BITS), 0.0)
    white = next((each for each in whites if largest <= each * (1 + tolerance)), 0)
    # a comparison with what is not a number is false
    if not (white and lowest >= -tolerance * white):
        raise UnknownWhiteError(
            f"has greys from {lowest:g} to {largest:g}, of which it does not say what white is; "
            f"scale them to {' or '.join(map(str, whites))}, or store 8 bits"
        )
    return Image.fromarray(np.rint(np.clip(values / white, 0, 1) * 255).astype(np.uint8))
