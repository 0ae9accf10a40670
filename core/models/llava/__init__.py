"""LLaVA in the layout of transformers: CLIP or SigLIP in front of a decoder of a text family."""

from lab.core.models.llava.config import MODEL_CLASS, MODEL_TYPE, LlavaConfig, processor, read, write
from lab.core.models.spec import FamilySpec
from lab.core.models.vision_language_json import with_files
from lab.core.models.vision_language_model import VisionLanguageModel, names_with, renaming, stock_vision_of

# where the releases on the hub have the tower
_TOWER = "vision_tower.vision_model"

SPEC = FamilySpec(
    name="llava",
    config=LlavaConfig,
    model_types=(MODEL_TYPE,),
    read=read,
    write=write,
    model=lambda config: VisionLanguageModel(config, model_class="LlavaModel"),
    names=names_with(_TOWER),
    sections=("text_config",),
    stock_vision=stock_vision_of(_TOWER, model_type=MODEL_TYPE, model_class=MODEL_CLASS, processor=processor),
    with_files=with_files(renaming(_TOWER)),
    renamed=renaming(_TOWER),
)
