"""Dynamic tiling: a picture of any shape becomes a few square tiles, and a small view of the whole.

The grid of tiles that comes closest to the picture's aspect ratio is chosen among those with an allowed number of tiles
(InternVL 1.5, arXiv 2404.16821, section 3.3; HoVLE and mmMamba use it unchanged).
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from numpy import ndarray
from PIL import Image
from torch import Tensor

from lab.core.errors import ConfigError, InputError

# Letters: N tiles, S side of a tile in pixels.

# mean and standard deviation of ImageNet's colours, which all public checkpoints normalise with
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)


@dataclass(kw_only=True, slots=True)
class TilingConfig:
    """How pictures are cut, and how many tokens a tile becomes; the defaults are HoVLE's."""

    image_size: int = 448
    """Side of a tile in pixels."""
    patch_size: int = 14
    """Side of a patch in pixels; it divides `image_size`."""
    downsample_ratio: float = 0.5
    """Side of the grid of tokens after the pixel shuffle, as a share of the grid of patches."""
    min_tiles: int = 1
    """Fewest tiles of a picture, the thumbnail not counted."""
    max_tiles: int = 12
    """Most tiles of a picture, the thumbnail not counted."""
    use_thumbnail: bool = True
    """Whether a picture of more than one tile is followed by a view of the whole."""

    def __post_init__(self) -> None:
        for key in ("image_size", "patch_size", "min_tiles"):
            if getattr(self, key) < 1:
                raise ConfigError(f"{key}={getattr(self, key)} must be 1 or more; raise it")
        if self.image_size % self.patch_size:
            raise ConfigError(
                f"patch_size={self.patch_size} must divide image_size={self.image_size}; choose one that does"
            )
        if self.max_tiles < self.min_tiles:
            raise ConfigError(f"max_tiles={self.max_tiles} must be min_tiles={self.min_tiles} or more; raise it")
        grid = self.image_size // self.patch_size
        side = grid * self.downsample_ratio
        if side < 1 or side != int(side) or grid % int(side):
            raise ConfigError(
                f"downsample_ratio={self.downsample_ratio:g} makes {side:g} tokens of a row of {grid} patches but must "
                "join whole patches; give 1 over a divisor of that number"
            )

    @property
    def patches_per_tile(self) -> int:
        """Patches of a tile: its tokens before the pixel shuffle."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def tokens_per_tile(self) -> int:
        """Tokens of a tile after the pixel shuffle."""
        return int(self.image_size // self.patch_size * self.downsample_ratio) ** 2


def choose_grid(width: int, height: int, tiling: TilingConfig) -> tuple[int, int]:
    """Columns and rows of the grid whose aspect ratio is closest to the picture's.

    Of two that are equally close, the one with more tiles is taken if the picture has more than half of its pixels.

    Raises:
        InputError: if the picture has no pixel.
    """
    if width < 1 or height < 1:
        raise InputError(f"a picture of {width} x {height} pixels has none to show; give one of 1 x 1 or more")
    aspect_ratio = width / height
    best, least_distance = (1, 1), float("inf")
    for columns, rows in _grids(tiling.min_tiles, tiling.max_tiles):
        distance = abs(aspect_ratio - columns / rows)
        is_large = width * height > 0.5 * tiling.image_size**2 * columns * rows
        if distance < least_distance or (distance == least_distance and is_large):
            best, least_distance = (columns, rows), distance
    return best


def count_tiles(width: int, height: int, tiling: TilingConfig) -> int:
    """Number of tiles that `cut_tiles` makes of a picture, the thumbnail included.

    Raises:
        InputError: if the picture has no pixel.
    """
    columns, rows = choose_grid(width, height, tiling)
    return columns * rows + (tiling.use_thumbnail and columns * rows > 1)


def cut_tiles(image: Image.Image, tiling: TilingConfig) -> UInt8[ndarray, "N S S 3"]:
    """The tiles of a picture, row by row, then the thumbnail; bicubic, in RGB.

    Raises:
        InputError: if the picture has no pixel.
    """
    columns, rows = choose_grid(*image.size, tiling)
    side = tiling.image_size
    image = image.convert("RGB")
    resized = np.asarray(image.resize((columns * side, rows * side), Image.Resampling.BICUBIC))
    tiles = resized.reshape(rows, side, columns, side, 3).swapaxes(1, 2).reshape(-1, side, side, 3)
    if tiling.use_thumbnail and len(tiles) > 1:
        thumbnail = np.asarray(image.resize((side, side), Image.Resampling.BICUBIC))
        tiles = np.concatenate((tiles, thumbnail[None]))
    return tiles


def normalize(tiles: UInt8[ndarray, "N S S 3"]) -> Float32[Tensor, "N 3 S S"]:
    """Pixels as the models read them: in [0, 1], less ImageNet's mean, over its standard deviation."""
    mean, std = torch.tensor(_MEAN), torch.tensor(_STD)
    pixels = torch.tensor(tiles, dtype=torch.float32)
    return (pixels.div_(255).sub_(mean).div_(std)).permute(0, 3, 1, 2).contiguous()


def load_image(path: Path) -> Image.Image:
    """The picture in a file, read in full.

    Raises:
        InputError: if the file is missing, or is no image that can be read to its end.
    """
    try:
        with Image.open(path) as image:
            image.load()
            return image
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; give the path of an image") from None
    except Image.DecompressionBombError:
        raise InputError(f"{path} has more pixels than is safe to read; scale it down") from None
    # a damaged file raises whatever its format's reader met first
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise InputError(f"{path} is no image that can be read ({error}); give a PNG or JPEG file") from None


@lru_cache
def _grids(min_tiles: int, max_tiles: int) -> tuple[tuple[int, int], ...]:
    """All (columns, rows) with an allowed number of tiles, small ones first."""
    sides = range(1, max_tiles + 1)
    grids = [(columns, rows) for columns in sides for rows in sides if min_tiles <= columns * rows <= max_tiles]
    return tuple(sorted(grids, key=lambda grid: grid[0] * grid[1]))
