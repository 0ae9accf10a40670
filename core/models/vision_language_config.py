"""The architecture of a vision tower and projector of transformers in front of a decoder of a text family."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from lab.core.data.picture_format import PictureConfig, TowerFormat
from lab.core.errors import ConfigError
from lab.core.models.config import MOST_PIXELS, DecoderConfig
from lab.core.models.spec import FamilySpec, families
from lab.core.ranges import LARGEST_COUNT, refuse_outside


@dataclass(kw_only=True, slots=True)
class VisionEncoderConfig:
    """How pixels become tokens."""

    image_size: int
    """Pixels of a side of a tile."""
    num_channels: int
    tokens_per_tile: int
    """Image tokens of a tile."""
    image_token_id: int
    """The token whose embedding an image token replaces."""
    pictures: PictureConfig
    """How a picture becomes tiles."""
    start: str = ""
    """Text in front of the image tokens of a picture."""
    end: str = ""
    """Text behind them."""
    content: dict[str, Any]
    """The keys of config.json that transformers builds tower and projector from."""

    def __post_init__(self) -> None:
        refuse_outside(self, "image_size", "num_channels", at_least=1, at_most=MOST_PIXELS)
        refuse_outside(self, "tokens_per_tile", at_least=1, at_most=LARGEST_COUNT)
        refuse_outside(self, "image_token_id", at_least=0, at_most=LARGEST_COUNT)
        if self.pictures.size != self.image_size:
            raise ConfigError(
                f"image_processor gives tiles of {self.pictures.size} pixels a side but "
                f"vision_config.image_size={self.image_size}; the two do not belong together"
            )

    @property
    def reads_every_patch(self) -> bool:
        """Whether the decoder's first layers read more tokens than the last ones: never."""
        return False

    @property
    def tower_format(self) -> TowerFormat:
        """How pictures are written into prompts."""
        return TowerFormat(
            pictures=self.pictures,
            tokens_per_tile=self.tokens_per_tile,
            image_token_id=self.image_token_id,
            start=self.start,
            end=self.end,
        )

    def num_weights(self, hidden_size: int) -> int:
        """How many weights tower and projector have, without norms and patch embedding."""
        tower = self.content["vision_config"]
        width = tower["hidden_size"]
        layer = 4 * width**2 + 2 * width * tower["intermediate_size"]
        return int(tower["num_hidden_layers"] * layer + (width + hidden_size) * hidden_size)


@dataclass(kw_only=True, slots=True)
class VisionLanguageConfig:
    """A vision tower, a projector and a decoder."""

    vision: VisionEncoderConfig
    family: str
    """The family of the decoder, by its name in `text_families`."""
    text: DecoderConfig

    def __post_init__(self) -> None:
        kind: type[Any] = text_family(self.family).config
        if type(self.text) is not kind:
            self.text = kind(**{each.name: getattr(self.text, each.name) for each in fields(self.text)})
        if self.vision.image_token_id >= self.text.vocab_size:
            raise ConfigError(
                f"the image token {self.vision.image_token_id} must be below vocab_size={self.text.vocab_size}"
            )

    @property
    def decoders(self) -> tuple[DecoderConfig, ...]:
        """The only stack."""
        return (self.text,)


def text_families() -> Mapping[str, FamilySpec]:
    """The families whose decoders may stand behind a vision tower, by name."""
    return {name: spec for name, spec in families().items() if issubclass(spec.config, DecoderConfig)}


def text_family(name: str) -> FamilySpec:
    """The family of text models with this name.

    Raises:
        ConfigError: if there is no such family.
    """
    known = text_families()
    if name not in known:
        raise ConfigError(f"family={name} is not a family of text models; choose from {', '.join(known)}")
    return known[name]
