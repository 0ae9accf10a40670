"""InternVL 2.5 and 3 in the layout of transformers (`-hf`): InternViT in front of a decoder of a text family."""

from lab.core.models.internvl.config import InternvlConfig, processor, read
from lab.core.models.vision_language_family import vision_language_family

SPEC = vision_language_family(
    name="internvl",
    config=InternvlConfig,
    read=read,
    processor=processor,
    model_class="InternVLModel",
    whole_class="InternVLForConditionalGeneration",
    tower="vision_tower",
)
