"""The spec of a family with a vision tower of transformers: what all of them share, and what a family adds."""

from collections.abc import Callable, Mapping
from typing import Any

from lab.core.models.hf_config import Json
from lab.core.models.spec import FamilySpec
from lab.core.models.vision_language_config import VisionLanguageConfig
from lab.core.models.vision_language_json import vision_language_json, with_files
from lab.core.models.vision_language_model import VisionLanguageModel, names_with, renaming, stock_vision_of


def vision_language_family(
    *,
    name: str,
    config: type[VisionLanguageConfig],
    read: Callable[[Json], VisionLanguageConfig],
    processor: Callable[[Any], Mapping[str, Any]],
    model_class: str,
    whole_class: str,
    tower: str,
) -> FamilySpec:
    """A family whose tower, projector and layout are those of transformers.

    Args:
        name: of the family, which is the `model_type` of its files.
        config: see `FamilySpec`.
        read: see `FamilySpec`.
        processor: an architecture to its processor_config.json.
        model_class: of tower, projector and decoder in transformers.
        whole_class: the same with the output head.
        tower: prefix of the vision tower's tensors in releases.
    """
    renamed = renaming(tower)
    return FamilySpec(
        name=name,
        config=config,
        model_types=(name,),
        read=read,
        write=lambda each: vision_language_json(each, model_type=name, model_class=whole_class),
        model=lambda each: VisionLanguageModel(each, model_class=model_class),
        names=names_with(tower),
        sections=("text_config",),
        stock_vision=stock_vision_of(tower, model_type=name, model_class=whole_class, processor=processor),
        with_files=with_files(renamed),
        renamed=renamed,
    )
