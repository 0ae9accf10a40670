"""A picture as it is meant to be seen: upright, with eight bits a colour, in RGB, whatever its file holds."""

import numpy as np
from PIL import Image, ImageOps

# Pillow knows forty more, some of which run another program (EPS) or are rarely met and rarely tested
FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
_ORIENTATION = 0x0112
_WHITE_OF_16_BITS = 65535


def upright_rgb(image: Image.Image) -> Image.Image:
    """The picture turned as its EXIF entry says, in RGB.

    Greys of 16 or 32 bits are scaled, where Pillow would cut them at 255. Transparency is dropped, not blended with a
    colour: what is trained on is what the public code of InternVL shows its models.

    Raises:
        ValueError: if there is no way from its mode to RGB.
    """
    if _is_turned(image):
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":
        return _eight_bits(image).convert("RGB")
    # colours that are multiplied by their opacity, and palettes with several transparent entries
    middle = {"RGBa": "RGBA", "La": "LA"}.get(image.mode)
    if image.mode == "P" and "transparency" in image.info:
        middle = "RGBA"
    return (image if middle is None else image.convert(middle)).convert("RGB")


def _is_turned(image: Image.Image) -> bool:
    try:
        return image.getexif().get(_ORIENTATION, 1) != 1
    # a damaged entry raises whatever its reader met; the picture itself is whole
    except Exception:
        return False


def _eight_bits(image: Image.Image) -> Image.Image:
    """A grey picture of 16 or 32 bits, or of floats, with 8 bits: white is the largest value of its kind.

    In 32 bits often fewer are used: 255 is white if no pixel exceeds it, then 65535. Floats are from 0 to 1, or to 255
    if a pixel exceeds 1.
    """
    values = np.nan_to_num(np.asarray(image).astype(np.float64))
    if image.mode == "F":
        white = 1.0 if values.max(initial=0) <= 1 else 255.0
    elif image.mode == "I":
        largest = values.max(initial=0)
        white = next(limit for limit in (255, _WHITE_OF_16_BITS, 2**31 - 1) if largest <= limit)
    else:
        white = _WHITE_OF_16_BITS
    return Image.fromarray(np.rint(np.clip(values / white, 0, 1) * 255).astype(np.uint8))
