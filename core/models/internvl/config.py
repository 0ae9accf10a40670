"""The architecture of InternVL in the layout of transformers, and its config.json."""

from dataclasses import dataclass
from typing import Any

from lab.core.errors import ConfigError
from lab.core.models.hf_config import Json, Section
from lab.core.models.image_processor import TILING, read_pictures
from lab.core.models.vision_language_config import VisionEncoderConfig, VisionLanguageConfig
from lab.core.models.vision_language_json import (
    LAYER,
    TOWER,
    feature_layer,
    read_decoder,
    read_tower,
    side,
    vision_language_json,
)

MODEL_TYPE, MODEL_CLASS = "internvl", "InternVLForConditionalGeneration"
_TOWERS = ("internvl_vision",)
# around the image tokens of a picture
_START, _END = "<img>", "</img>"


@dataclass(kw_only=True, slots=True)
class InternvlConfig(VisionLanguageConfig):
    """InternVL 2.5 and 3 (arXiv 2412.05271, 2504.10479): InternViT on tiles, and a decoder of a text family."""


def read(content: Json) -> InternvlConfig:
    """The architecture that a config.json describes, with the image processor under its key.

    Raises:
        BackendError: if transformers is not installed.
        ConfigError: naming the key that is missing, of a wrong type or not implemented, and its value.
    """
    top = Section(content)
    # with all tokens a tile would not be a square
    top.accept_only(quantization_config=None, vision_feature_select_strategy="default")
    tower = read_tower(top, _TOWERS)
    image_size, ratio = side(tower, "image_size"), top.number("downsample_ratio", at_most=1, default=0.5)
    patches, factor = image_size // side(tower, "patch_size"), round(1 / ratio)
    if abs(1 / ratio - factor) > 1e-6 or patches % factor:
        raise ConfigError(
            f"downsample_ratio={ratio:g} must be 1, 1/2, 1/3 and so on, and divide the {patches} patches of a side"
        )
    tokens = (patches // factor) ** 2
    token = top.whole("image_token_id", at_least=0, default=151667)
    kept: dict[str, Any] = {
        TOWER: dict(tower.content),
        "image_token_id": token,
        "image_seq_length": tokens,
        "downsample_ratio": ratio,
        LAYER: feature_layer(top, tower, default=-1),
        "vision_feature_select_strategy": "default",
        "projector_hidden_act": top.content.get("projector_hidden_act", "gelu"),
    }
    vision = VisionEncoderConfig(
        image_size=image_size,
        num_channels=tower.whole("num_channels"),
        tokens_per_tile=tokens,
        image_token_id=token,
        pictures=read_pictures(top, known=TILING),
        start=_START,
        end=_END,
        content=kept,
    )
    return InternvlConfig(vision=vision, **read_decoder(top, tied=True))


def write(config: InternvlConfig) -> dict[str, Any]:
    """A config.json that describes `config`."""
    return vision_language_json(config, model_type=MODEL_TYPE, model_class=MODEL_CLASS)


def processor(config: InternvlConfig) -> dict[str, Any]:
    """What processor_config.json holds."""
    return {"processor_class": "InternVLProcessor", "image_seq_length": config.vision.tokens_per_tile}
