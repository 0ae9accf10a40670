"""How a picture becomes tiles, and how tiles become tokens, for models with a vision tower of transformers."""

from dataclasses import dataclass, field
from enum import Enum

from lab.core.errors import ConfigError
from lab.core.ranges import LARGEST_COUNT, refuse_outside

# filters of Pillow, by number as in files of transformers: 0 to 5
NUM_FILTERS = 6
_CHANNELS = 3


@dataclass(frozen=True, slots=True)
class Colours:
    """What is subtracted from colours in [0, 1], then what they are divided by, for red, green and blue."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


# ImageNet's, which InternVL and HoVLE normalise with
IMAGENET = Colours((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class Fit(Enum):
    """How a picture of any shape is made to fit square tiles."""

    tiles = "tiles"
    """InternVL's dynamic tiling; see `tiling`."""
    crop = "crop"
    """One tile: the shorter side becomes `edge`, and the middle is cut out (CLIP)."""
    stretch = "stretch"
    """One tile, whatever the aspect ratio (SigLIP)."""


@dataclass(kw_only=True, slots=True)
class PictureConfig:
    """What an image processor of transformers does."""

    fit: Fit
    size: int
    """Pixels of a side of a tile."""
    edge: int | None = None
    """fit=crop: pixels of the shorter side before the middle is cut out."""
    resample: int = 3
    """Filter of Pillow; 3 is bicubic."""
    mean: list[float] = field(default_factory=lambda: list(IMAGENET.mean))
    std: list[float] = field(default_factory=lambda: list(IMAGENET.std))
    min_tiles: int = 1
    """fit=tiles: least number of tiles of a picture, the thumbnail not counted."""
    max_tiles: int = 1
    """fit=tiles: what the checkpoint suggests; prompt.max_tiles is used."""

    def __post_init__(self) -> None:
        refuse_outside(self, "size", "edge", "min_tiles", "max_tiles", at_least=1, at_most=LARGEST_COUNT)
        refuse_outside(self, "resample", at_least=0, below=NUM_FILTERS)
        refuse_outside(self, "std", above=0)
        if len(self.mean) != _CHANNELS or len(self.std) != _CHANNELS:
            raise ConfigError(f"mean={self.mean} and std={self.std} must have {_CHANNELS} numbers, one a colour")
        if (self.edge is not None) != (self.fit is Fit.crop):
            raise ConfigError(f"edge={self.edge} with fit={self.fit.value}: fit=crop has an edge, and no other")
        if self.edge is not None and self.edge < self.size:
            raise ConfigError(f"edge={self.edge} must be size={self.size} or more: pictures would have black margins")

    @property
    def colours(self) -> Colours:
        """How colours are normalised."""
        return Colours(tuple(self.mean), tuple(self.std))


@dataclass(frozen=True, kw_only=True, slots=True)
class TowerFormat:
    """How pictures are written into the prompts of a model with a vision tower.

    Attributes:
        pictures: how a picture becomes tiles.
        tokens_per_tile: image tokens of a tile.
        image_token_id: of each of them.
        start: text in front of the image tokens of a picture.
        end: text behind them.
    """

    pictures: PictureConfig
    tokens_per_tile: int
    image_token_id: int
    start: str = ""
    end: str = ""
