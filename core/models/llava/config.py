"""The architecture of LLaVA, and its config.json."""

from dataclasses import dataclass
from typing import Any

from lab.core.errors import ConfigError
from lab.core.models.hf_config import Json, Section
from lab.core.models.image_processor import ONE_TILE
from lab.core.models.vision_language_config import VisionLanguageConfig
from lab.core.models.vision_language_json import (
    LAYER,
    TOWER,
    feature_layers,
    patches_per_side,
    read_tower,
    read_vision_language,
    side,
)

# a token of the whole picture in front of its patches' in the first, none in the second
_TOWERS = {"clip_vision_model": 1, "siglip_vision_model": 0}
_STRATEGY, _STRATEGIES = "vision_feature_select_strategy", ("default", "full")


@dataclass(kw_only=True, slots=True)
class LlavaConfig(VisionLanguageConfig):
    """LLaVA (arXiv 2310.03744): CLIP or SigLIP, a projector of two layers, and a decoder of a text family."""


def read(content: Json) -> LlavaConfig:
    """The architecture that a config.json describes; see `read_vision_language`."""
    top = Section(content)
    top.accept_only(quantization_config=None)
    tower = read_tower(top, _TOWERS)
    strategy = top.content.get(_STRATEGY, "default")
    if strategy not in _STRATEGIES:
        raise ConfigError(f"{_STRATEGY}={strategy} must be {' or '.join(_STRATEGIES)}")
    index = "image_token_index" if top.has("image_token_index") else "image_token_id"
    token = top.whole(index, at_least=0, default=32000)
    return read_vision_language(
        LlavaConfig,
        top,
        tower,
        # what transformers calls default drops the first token, whatever it is
        tokens_per_tile=patches_per_side(tower) ** 2 + _TOWERS[tower.content["model_type"]] - (strategy == "default"),
        image_token_id=token,
        processors=ONE_TILE,
        tied=False,
        content={
            "image_token_index": token,
            LAYER: feature_layers(top, tower, default=-2),
            _STRATEGY: strategy,
            "multimodal_projector_bias": top.flag("multimodal_projector_bias", default=True),
        },
    )


def processor(config: LlavaConfig) -> dict[str, Any]:
    """What processor_config.json holds."""
    kept = config.vision.content
    tower = Section(kept[TOWER])
    return {
        "processor_class": "LlavaProcessor",
        "patch_size": side(tower, "patch_size"),
        "num_additional_image_tokens": _TOWERS[tower.content["model_type"]],
        _STRATEGY: kept[_STRATEGY],
    }
