"""Dynamic tiling: an image of any shape becomes a few square tiles and a thumbnail; or the one tile of CLIP and SigLIP.

The grid of tiles that comes closest to the picture's aspect ratio is chosen among those with an allowed number of tiles
(InternVL 1.5, arXiv 2404.16821, section 3.3; HoVLE and mmMamba use it unchanged).
"""

from errno import ENAMETOOLONG
from functools import lru_cache
from os import SEEK_END
from pathlib import Path
from typing import IO

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray
from PIL import Image

from lab.core.data.bad_samples import BadSample, Reason
from lab.core.data.picture_format import Fit, PictureConfig
from lab.core.data.pixels import FORMATS, UnknownWhiteError, fault_of, upright_rgb
from lab.core.data.prompt_format import PromptFormat
from lab.core.errors import InputError
from lab.core.runs.atomic_files import refuse_special

# Letters: N tiles, S side of a tile in pixels.

# of a picture that is enlarged as a whole before its middle is cut out: 256 MiB; one of 1 x 2000 would take gigabytes
_MOST_ENLARGED = 2**26
# letters of a name in a message: it may be the Base64 of a whole picture
_LONGEST_NAME = 200


def choose_grid(width: int, height: int, prompt_format: PromptFormat) -> tuple[int, int]:
    """Columns and rows of the grid whose aspect ratio is closest to the picture's.

    Of two that are equally close, the one with more tiles is taken if the picture has more than half of its pixels.

    Raises:
        InputError: if the picture has no pixel.
    """
    if width < 1 or height < 1:
        raise InputError(f"a picture of {width} x {height} pixels has none to show; give one of 1 x 1 or more")
    aspect_ratio = width / height
    best, least_distance = (1, 1), float("inf")
    min_tiles = 1 if prompt_format.tower is None else prompt_format.tower.pictures.min_tiles
    for columns, rows in _grids(min_tiles, prompt_format.max_tiles):
        distance = abs(aspect_ratio - columns / rows)
        is_large = width * height > 0.5 * prompt_format.image_size**2 * columns * rows
        if distance < least_distance or (distance == least_distance and is_large):
            best, least_distance = (columns, rows), distance
    return best


def cut_tiles(image: Image.Image, prompt_format: PromptFormat) -> UInt8[ndarray, "N S S 3"]:
    """The tiles of a picture, row by row, then the thumbnail, in RGB; one tile for a model that does not tile.

    Raises:
        InputError: if the picture has no pixel, or is so narrow that cutting out its middle takes too much memory.
    """
    pictures = None if prompt_format.tower is None else prompt_format.tower.pictures
    columns, rows = choose_grid(*image.size, prompt_format)
    image = image.convert("RGB")
    if pictures is not None and pictures.fit is not Fit.tiles:
        return _one_tile(image, pictures)
    side = prompt_format.image_size
    resample = Image.Resampling.BICUBIC if pictures is None else Image.Resampling(pictures.resample)
    resized = np.asarray(image.resize((columns * side, rows * side), resample))
    tiles = resized.reshape(rows, side, columns, side, 3).swapaxes(1, 2).reshape(-1, side, side, 3)
    if len(tiles) > 1:
        thumbnail = np.asarray(image.resize((side, side), resample))
        tiles = np.concatenate((tiles, thumbnail[None]))
    return tiles


def _one_tile(image: Image.Image, pictures: PictureConfig) -> UInt8[ndarray, "1 S S 3"]:
    """The whole picture, or the middle of it."""
    side, edge = pictures.size, pictures.edge
    size = (side, side)
    if edge is not None:
        # the longer side is rounded down, as transformers does
        shorter = min(image.size)
        size = (int(edge * image.width / shorter), int(edge * image.height / shorter))
    if size[0] * size[1] > _MOST_ENLARGED:
        raise BadSample(
            f"a picture of {image.width} x {image.height} pixels is too narrow: it would be enlarged to "
            f"{size[0]} x {size[1]}, of which the model sees {side} x {side}; crop it",
            Reason.too_narrow,
        )
    resized = image.resize(size, Image.Resampling(pictures.resample))
    left, top = ((length - side) // 2 for length in size)
    return np.asarray(resized.crop((left, top, left + side, top + side)))[None]


def load_image(path: Path) -> Image.Image:
    """Read an image file completely, upright and in RGB.

    Raises:
        InputError: if the file is missing, or is not an image that can be read to its end.
    """
    refuse_special(path, InputError)
    name, half = str(path), _LONGEST_NAME // 2
    return read_image(path, name if len(name) <= _LONGEST_NAME else f"{name[:half]}…{name[-half:]}")


def read_image(source: Path | IO[bytes], name: str) -> Image.Image:
    """Read an image completely from a file, or from bytes in memory that an error calls by a name; see `upright_rgb`.

    Raises:
        InputError: if the file is missing, or is not an image that can be read to its end.
    """
    is_known = False
    try:
        with Image.open(source, formats=FORMATS) as image:
            is_known = True
            image.load()
            return upright_rgb(image)
    except FileNotFoundError:
        raise BadSample(f"{name} does not exist; give the path of an image", Reason.missing_image) from None
    except Image.DecompressionBombError:
        raise BadSample(f"{name} has more pixels than is safe to read; scale it down", Reason.too_many_pixels) from None
    except UnknownWhiteError as error:
        raise BadSample(f"{name} {error}", Reason.unknown_white) from None
    except MemoryError:
        raise
    # a damaged file raises whatever its format's reader met first
    except Exception as error:
        # errors of Pillow itself have no number
        if isinstance(error, OSError) and error.errno is not None:
            cure = (
                ", or its content as a data: URL"
                if error.errno == ENAMETOOLONG
                else " that you have permission to read"
            )
            raise BadSample(
                f"{name} cannot be opened ({fault_of(error)}); give the path of an image{cure}",
                Reason.unreadable_image,
            ) from None
        reason = Reason.cut_image if is_known else Reason.empty_image if _is_empty(source) else Reason.no_image
        raise BadSample(
            f"{name} is not an image that can be read ({fault_of(error)}); give a PNG or JPEG file", reason
        ) from None


def _is_empty(source: Path | IO[bytes]) -> bool:
    return source.stat().st_size == 0 if isinstance(source, Path) else source.seek(0, SEEK_END) == 0


@lru_cache
def _grids(min_tiles: int, max_tiles: int) -> tuple[tuple[int, int], ...]:
    """All (columns, rows) with that many tiles, small grids first."""
    sides = range(1, max_tiles + 1)
    grids = [(columns, rows) for columns in sides for rows in sides if min_tiles <= columns * rows <= max_tiles]
    return tuple(sorted(grids, key=lambda grid: grid[0] * grid[1]))
