"""How pictures become tiles, as the settings of a stock image processor of transformers."""

from typing import Any

from lab.core.data.batch import MEAN, STD
from lab.core.data.prompt_format import PromptFormat


def image_processor_json(prompt_format: PromptFormat) -> dict[str, dict[str, Any]]:
    """The files that `AutoImageProcessor` reads, by name: tiles, a thumbnail last, and their colours are ours."""
    side = prompt_format.image_size
    size = {"height": side, "width": side}
    settings = {
        # InternVL's tiles
        "image_processor_type": "GotOcr2ImageProcessor",
        "crop_to_patches": prompt_format.max_tiles > 1,
        "min_patches": 1,
        "max_patches": prompt_format.max_tiles,
        "do_convert_rgb": True,
        "do_resize": True,
        "size": size,
        # bicubic
        "resample": 3,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(MEAN),
        "image_std": list(STD),
    }
    return {"preprocessor_config.json": settings}
