"""How a checkpoint folder says how pictures become tiles: in preprocessor_config.json or processor_config.json."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lab.core.data.image_processor_json import PREPROCESSOR
from lab.core.data.picture_format import NUM_FILTERS, Fit, PictureConfig
from lab.core.data.prompt_format import MOST_TILES
from lab.core.errors import CheckpointError, ConfigError
from lab.core.models.config import MOST_PIXELS
from lab.core.models.hf_config import Json, Section, load_json

PROCESSOR = "processor_config.json"
# key of processor_config.json as transformers 5 writes it, and of config.json as we write it
IMAGE_PROCESSOR = "image_processor"
_TYPE = "image_processor_type"
_CLIP_COLOURS = {
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
# what the classes of transformers have where a file lacks a key
_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "CLIPImageProcessor": _CLIP_COLOURS | {"size": {"shortest_edge": 224}, "crop_size": 224, "do_center_crop": True},
    "LlavaImageProcessor": _CLIP_COLOURS | {"size": {"shortest_edge": 224}, "crop_size": 224, "do_center_crop": True},
    "SiglipImageProcessor": {"size": 224, "image_mean": [0.5] * 3, "image_std": [0.5] * 3},
    "GotOcr2ImageProcessor": _CLIP_COLOURS | {"size": 384, "min_patches": 1, "max_patches": 12},
}
TILING = ("GotOcr2ImageProcessor",)
# of what is subtracted from colours in [0, 1] or divides them; far more than any, and safe in single precision
_LARGEST_COLOUR = 1e6
ONE_TILE = ("CLIPImageProcessor", "SiglipImageProcessor", "LlavaImageProcessor")


def with_image_processor(content: Json, folder: Path) -> Json:
    """A config.json with the settings of the folder's image processor.

    Raises:
        CheckpointError: if the folder has none, or a file is damaged.
    """
    if IMAGE_PROCESSOR in content:
        return content
    if (folder / PREPROCESSOR).is_file():
        return {**content, IMAGE_PROCESSOR: load_json(folder / PREPROCESSOR)}
    found = load_json(folder / PROCESSOR).get(IMAGE_PROCESSOR) if (folder / PROCESSOR).is_file() else None
    if not isinstance(found, dict):
        raise CheckpointError(
            f"{folder} has neither {PREPROCESSOR} nor a {PROCESSOR} with {IMAGE_PROCESSOR}, which say how pictures are "
            "resized; copy them from the model's release"
        )
    return {**content, IMAGE_PROCESSOR: found}


def read_pictures(top: Section, *, known: tuple[str, ...]) -> PictureConfig:
    """What the image processor of a config.json does; see `with_image_processor`.

    Args:
        top: config.json.
        known: the processors that the family is used with.

    Raises:
        ConfigError: naming the key that is missing, of a wrong type or not implemented, and its value.
    """
    given = top.section(IMAGE_PROCESSOR)
    name = given.content.get(_TYPE)
    # names of transformers 4 and 5 for other implementations of the same
    plain = str(name).removesuffix("Fast").removesuffix("Pil")
    if plain not in known:
        raise ConfigError(f"{given.prefix}{_TYPE}={name} is not implemented, only {', '.join(known)}")
    present = {key: value for key, value in given.content.items() if value is not None}
    processor = Section({**_DEFAULTS[plain], **present}, given.prefix)
    processor.accept_only(do_resize=True, do_rescale=True, do_normalize=True, do_pad=False)
    if abs(processor.number("rescale_factor", default=1 / 255) - 1 / 255) > 1e-12:
        raise ConfigError(f"{processor.prefix}rescale_factor={processor.content['rescale_factor']} must be 1/255")
    common: dict[str, Any] = {
        "resample": processor.whole("resample", at_least=0, at_most=NUM_FILTERS - 1, default=3),
        "mean": _colour(processor, "image_mean", at_least=-_LARGEST_COLOUR),
        "std": _colour(processor, "image_std", at_least=1 / _LARGEST_COLOUR),
    }
    if plain in TILING:
        least, most = (processor.whole(f"{bound}_patches", at_most=MOST_TILES) for bound in ("min", "max"))
        if least > most:
            raise ConfigError(f"{processor.prefix}min_patches={least} must be at most max_patches={most}")
        tiles: dict[str, Any] = {"min_tiles": least, "max_tiles": most}
        return PictureConfig(fit=Fit.tiles, size=_side(processor, "size"), **tiles, **common)
    if not processor.flag("do_center_crop"):
        return PictureConfig(fit=Fit.stretch, size=_side(processor, "size"), **common)
    side, size = _side(processor, "crop_size"), processor.content["size"]
    edge = size.get("shortest_edge") if isinstance(size, dict) else size
    if edge is not None:
        edge = Section({"shortest_edge": edge}, f"{processor.prefix}size.").whole("shortest_edge", at_most=MOST_PIXELS)
        if edge < side:
            raise ConfigError(f"{processor.prefix}size={size} must be crop_size={side} or more")
        return PictureConfig(fit=Fit.crop, size=side, edge=edge, **common)
    if _side(processor, "size") != side:
        raise ConfigError(f"{processor.prefix}size={size} must be crop_size={side}, or have a shortest_edge")
    return PictureConfig(fit=Fit.stretch, size=side, **common)


def _side(processor: Section, key: str) -> int:
    """The side of a square."""
    value = processor.content[key]
    if not isinstance(value, dict):
        return processor.whole(key, at_most=MOST_PIXELS)
    square = Section(value, f"{processor.prefix}{key}.")
    height, width = (square.whole(each, at_most=MOST_PIXELS) for each in ("height", "width"))
    if height != width:
        raise ConfigError(f"{processor.prefix}{key}={value} must be a square")
    return height


def _colour(processor: Section, key: str, *, at_least: float) -> list[float]:
    values = processor.listed(key, length=3)
    for value in values:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        # not a number is in no range
        if not is_number or not at_least <= value <= _LARGEST_COLOUR:
            raise ConfigError(
                f"{processor.prefix}{key}={values} must be three numbers from {at_least:g} to {_LARGEST_COLOUR:g}"
            )
    return [float(value) for value in values]
