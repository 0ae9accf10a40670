"""The architecture of InternVL in the layout of transformers, and its config.json."""

from dataclasses import dataclass
from typing import Any

from lab.core.errors import ConfigError
from lab.core.models.hf_config import Json, Section
from lab.core.models.image_processor import TILING
from lab.core.models.vision_language_config import VisionLanguageConfig
from lab.core.models.vision_language_json import (
    LAYER,
    feature_layer,
    patches_per_side,
    read_tower,
    read_vision_language,
)

_TOWERS = ("internvl_vision",)


@dataclass(kw_only=True, slots=True)
class InternvlConfig(VisionLanguageConfig):
    """InternVL 2.5 and 3 (arXiv 2412.05271, 2504.10479): InternViT on tiles, and a decoder of a text family."""


def read(content: Json) -> InternvlConfig:
    """The architecture that a config.json describes; see `read_vision_language`."""
    top = Section(content)
    # with all tokens a tile would not be a square
    top.accept_only(quantization_config=None, vision_feature_select_strategy="default")
    tower = read_tower(top, _TOWERS)
    patches, ratio = patches_per_side(tower), top.number("downsample_ratio", at_most=1, default=0.5)
    factor = round(1 / ratio)
    if abs(1 / ratio - factor) > 1e-6 or patches % factor:
        raise ConfigError(
            f"downsample_ratio={ratio:g} must be 1, 1/2, 1/3 and so on, and divide the {patches} patches of a side"
        )
    token = top.whole("image_token_id", at_least=0, default=151667)
    return read_vision_language(
        InternvlConfig,
        top,
        tower,
        tokens_per_tile=(patches // factor) ** 2,
        image_token_id=token,
        processors=TILING,
        tied=True,
        content={
            "image_token_id": token,
            "downsample_ratio": ratio,
            LAYER: feature_layer(top, tower, default=-1),
            "vision_feature_select_strategy": "default",
        },
        start="<img>",
        end="</img>",
    )


def processor(config: InternvlConfig) -> dict[str, Any]:
    """What processor_config.json holds."""
    return {"processor_class": "InternVLProcessor", "image_seq_length": config.vision.tokens_per_tile}
