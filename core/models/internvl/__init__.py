"""InternVL 2.5 and 3 in the layout of transformers (`-hf`): InternViT in front of a decoder of a text family."""

from lab.core.models.internvl.config import MODEL_CLASS, MODEL_TYPE, InternvlConfig, processor, read, write
from lab.core.models.spec import FamilySpec
from lab.core.models.vision_language_json import with_files
from lab.core.models.vision_language_model import VisionLanguageModel, names_with, renaming, stock_vision_of

_TOWER = "vision_tower"

SPEC = FamilySpec(
    name="internvl",
    config=InternvlConfig,
    model_types=(MODEL_TYPE,),
    read=read,
    write=write,
    model=lambda config: VisionLanguageModel(config, model_class="InternVLModel"),
    names=names_with(_TOWER),
    sections=("text_config",),
    stock_vision=stock_vision_of(_TOWER, model_type=MODEL_TYPE, model_class=MODEL_CLASS, processor=processor),
    with_files=with_files(renaming(_TOWER)),
    renamed=renaming(_TOWER),
)
