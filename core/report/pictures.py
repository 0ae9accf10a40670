"""Figures small enough for a page of many: fewer colours and dots, which figures of lines do not need."""

import base64
import io

from PIL import Image, UnidentifiedImageError, features

from lab.core.errors import RunError

# the width of a page's text on screen
_MOST_DOTS = 900
# of a printed figure of 300 dots an inch: one panel fills two thirds of a page's text
_SHOWN = 0.6
# of lines and of maps, and what lies between them and white
_COLOURS = 128
# of an uncompressed picture: a damaged header may say anything
_MOST_PIXELS = 50_000_000


def data_uri(png: bytes) -> tuple[str, int, int]:
    """A picture for the source of an <img>, with its width and height on the page.

    Raises:
        RunError: if it is damaged, or too large.
    """
    try:
        with Image.open(io.BytesIO(png), formats=["PNG"]) as opened:
            if opened.width * opened.height > _MOST_PIXELS:
                raise RunError(f"a picture of {opened.width} x {opened.height} dots is too large for a page")
            whole = Image.new("RGB", opened.size, "white")
            rgba = opened.convert("RGBA")
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise RunError("it is not a PNG picture, or is damaged") from error
    whole.paste(rgba, mask=rgba.getchannel("A"))
    scale = min(1.0, _MOST_DOTS / whole.width)
    # sharp, without the rings around lines that Lanczos would add, and that take colours and bytes
    small = whole.resize((round(whole.width * scale), max(1, round(whole.height * scale))), Image.Resampling.HAMMING)
    buffer = io.BytesIO()
    # by an octree: a colour of few dots, such as that of one marker, keeps its place
    drawn = small.quantize(_COLOURS, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    # lossless, and two thirds of a PNG
    if features.check("webp"):
        kind = "webp"
        drawn.convert("RGB").save(buffer, "WEBP", lossless=True)
    else:
        kind = "png"
        drawn.save(buffer, "PNG", optimize=True)
    return (
        f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}",
        round(_SHOWN * whole.width),
        round(_SHOWN * whole.height),
    )
