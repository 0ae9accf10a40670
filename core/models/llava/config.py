"""The architecture of LLaVA, and its config.json."""

from dataclasses import dataclass
from typing import Any

from lab.core.errors import ConfigError
from lab.core.models.hf_config import Json, Section
from lab.core.models.image_processor import ONE_TILE, read_pictures
from lab.core.models.vision_language_config import VisionEncoderConfig, VisionLanguageConfig
from lab.core.models.vision_language_json import (
    LAYER,
    TOWER,
    feature_layers,
    read_decoder,
    read_tower,
    side,
    vision_language_json,
)

MODEL_TYPE, MODEL_CLASS = "llava", "LlavaForConditionalGeneration"
# a token of the whole picture in front of its patches' in the first, none in the second
_TOWERS = {"clip_vision_model": 1, "siglip_vision_model": 0}
_STRATEGIES = ("default", "full")


@dataclass(kw_only=True, slots=True)
class LlavaConfig(VisionLanguageConfig):
    """LLaVA (arXiv 2310.03744): CLIP or SigLIP, a projector of two layers, and a decoder of a text family."""


def read(content: Json) -> LlavaConfig:
    """The architecture that a config.json describes, with the image processor under its key.

    Raises:
        BackendError: if transformers is not installed.
        ConfigError: naming the key that is missing, of a wrong type or not implemented, and its value.
    """
    top = Section(content)
    top.accept_only(quantization_config=None)
    tower = read_tower(top, _TOWERS)
    strategy = top.content.get("vision_feature_select_strategy", "default")
    if strategy not in _STRATEGIES:
        raise ConfigError(f"vision_feature_select_strategy={strategy} must be {' or '.join(_STRATEGIES)}")
    image_size = side(tower, "image_size")
    num_patches = (image_size // side(tower, "patch_size")) ** 2
    # what transformers calls default drops the first token, whatever it is
    tokens = num_patches + _TOWERS[tower.content["model_type"]] - (strategy == "default")
    index = "image_token_index" if top.has("image_token_index") else "image_token_id"
    token = top.whole(index, at_least=0, default=32000)
    kept: dict[str, Any] = {
        TOWER: dict(tower.content),
        "image_token_index": token,
        "image_seq_length": tokens,
        LAYER: feature_layers(top, tower, default=-2),
        "vision_feature_select_strategy": strategy,
        "projector_hidden_act": top.content.get("projector_hidden_act", "gelu"),
        "multimodal_projector_bias": top.flag("multimodal_projector_bias", default=True),
    }
    vision = VisionEncoderConfig(
        image_size=image_size,
        num_channels=tower.whole("num_channels"),
        tokens_per_tile=tokens,
        image_token_id=token,
        pictures=read_pictures(top, known=ONE_TILE),
        content=kept,
    )
    return LlavaConfig(vision=vision, **read_decoder(top, tied=False))


def write(config: LlavaConfig) -> dict[str, Any]:
    """A config.json that describes `config`."""
    return vision_language_json(config, model_type=MODEL_TYPE, model_class=MODEL_CLASS)


def processor(config: LlavaConfig) -> dict[str, Any]:
    """What processor_config.json holds."""
    kept = config.vision.content
    tower = Section(kept[TOWER])
    return {
        "processor_class": "LlavaProcessor",
        "patch_size": side(tower, "patch_size"),
        "num_additional_image_tokens": _TOWERS[tower.content["model_type"]],
        "vision_feature_select_strategy": kept["vision_feature_select_strategy"],
    }
