"""How pictures become tiles, as the settings of a stock image processor of transformers."""

from typing import Any

from lab.core.data.picture_format import Fit, PictureConfig
from lab.core.data.prompt_format import PromptFormat

PREPROCESSOR = "preprocessor_config.json"
_TYPES = {
    # InternVL's tiles
    Fit.tiles: "GotOcr2ImageProcessor",
    Fit.crop: "CLIPImageProcessor",
    Fit.stretch: "SiglipImageProcessor",
}


def image_processor_json(prompt_format: PromptFormat) -> dict[str, dict[str, Any]]:
    """The files that `AutoImageProcessor` reads, by name: tiles, a thumbnail last, and their colours are ours."""
    if prompt_format.tower is None:
        pictures = PictureConfig(fit=Fit.tiles, size=prompt_format.image_size)
    else:
        pictures = prompt_format.tower.pictures
    return {PREPROCESSOR: settings(pictures, max_tiles=prompt_format.max_tiles)}


def settings(pictures: PictureConfig, *, max_tiles: int) -> dict[str, Any]:
    """What the file holds."""
    square = {"height": pictures.size, "width": pictures.size}
    found = {
        "image_processor_type": _TYPES[pictures.fit],
        "do_convert_rgb": True,
        "do_resize": True,
        "size": square if pictures.edge is None else {"shortest_edge": pictures.edge},
        "resample": pictures.resample,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(pictures.mean),
        "image_std": list(pictures.std),
    }
    if pictures.fit is Fit.crop:
        found |= {"do_center_crop": True, "crop_size": square}
    elif pictures.fit is Fit.tiles:
        found |= {
            "crop_to_patches": max_tiles > 1,
            "min_patches": pictures.min_tiles,
            "max_patches": max_tiles,
        }
    return found
