"""What the model card of an exported student says of pictures: as its teacher reads them."""

import pytest

from lab.core.data.picture_format import Fit, PictureConfig
from lab.core.models.config import PixelShuffle, VisionConfig
from lab.core.models.vision_language_config import VisionEncoderConfig
from lab.experiments.distill.model_card import how_to_show_pictures


def encoder(pictures: PictureConfig, *, start: str = "", end: str = "") -> VisionEncoderConfig:
    kept = {"image_size": pictures.size, "num_channels": 3, "image_token_id": 77, "content": {}}
    return VisionEncoderConfig(tokens_per_tile=9, pictures=pictures, start=start, end=end, **kept)


CASES = {
    "hovle": (
        VisionConfig(
            image_size=56,
            patch_size=14,
            num_channels=3,
            shuffle_factor=2,
            pixel_shuffle=PixelShuffle.pre,
            image_token_id=5,
        ),
        "A picture is cut into tiles as InternVL does it, and a smaller copy of the whole, of 56 x 56 pixels",
        "In the text it is `<img>`, 4 `<IMG_CONTEXT>` for each tile, `</img>`.",
    ),
    "internvl": (
        encoder(PictureConfig(fit=Fit.tiles, size=28), start="<img>", end="</img>"),
        "A picture is cut into tiles as InternVL does it, and a smaller copy of the whole, of 28 x 28 pixels",
        "In the text it is `<img>`, 9 tokens with the id 77 for each tile, `</img>`.",
    ),
    "llava": (
        encoder(PictureConfig(fit=Fit.crop, size=28, edge=28)),
        "A picture is one tile, of 28 x 28 pixels",
        "In the text it is 9 tokens with the id 77 for each tile.",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_pictures_are_those_of_the_teacher(name: str) -> None:
    vision, tiles, tokens = CASES[name]
    said = how_to_show_pictures(vision)
    assert said.startswith(tiles)
    assert said.endswith(tokens)
