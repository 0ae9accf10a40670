"""LLaVA in the layout of transformers: CLIP or SigLIP in front of a decoder of a text family."""

from lab.core.models.llava.config import LlavaConfig, processor, read
from lab.core.models.vision_language_family import vision_language_family

SPEC = vision_language_family(
    name="llava",
    config=LlavaConfig,
    read=read,
    processor=processor,
    model_class="LlavaModel",
    whole_class="LlavaForConditionalGeneration",
    tower="vision_tower.vision_model",
)
