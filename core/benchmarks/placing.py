"""Where images stand in the text of a question."""

import re
from collections.abc import Sequence
from typing import TypeVar

from lab.core.data.prompt_format import IMAGE_MARK, IMAGE_TOKENS
from lab.core.errors import InputError

Picture = TypeVar("Picture")

# as MMMU writes them
_NUMBERED = re.compile(r"<image (\d+)>")


def place_images(text: str, images: Sequence[Picture]) -> tuple[str, list[Picture]]:
    """The text with a mark for each image, and the images in the order of the marks.

    A text that has as many marks as there are images is left as it is. A single image stands in front. Several are
    numbered in front, as InternVL's models know them, and the numbers replace `<image 1>` and so on in the text.

    Raises:
        InputError: if the text names an image that the question does not have.
    """
    if text.count(IMAGE_MARK) == len(images):
        return text, list(images)
    numbers = [int(number) for number in _NUMBERED.findall(text)]
    lost = next((number for number in numbers if not 1 <= number <= len(images)), None)
    if lost is not None:
        raise InputError(f"names <image {lost}>, and has {len(images)} images; mend it")
    # an image that is named twice is shown twice
    shown = [images[number - 1] for number in numbers] or list(images)
    for place in range(1, len(numbers) + 1):
        text = _NUMBERED.sub(f"<Image-{place}>", text, count=1)
    if len(shown) == 1:
        return f"{IMAGE_MARK}\n{text}", shown
    front = " ".join(f"<Image-{place}>: {IMAGE_MARK}" for place in range(1, len(shown) + 1))
    return f"{front}\n{text}", shown


def refuse_wrong_marks(text: str, num_images: int) -> None:
    """Refuse a text that no conversation can be written of, before its images are read.

    Raises:
        InputError: if it holds a token that stands for a part of an image, or other marks than there are images.
    """
    token = next((token for token in IMAGE_TOKENS if token in text), None)
    if token is not None:
        raise InputError(f"holds the image token {token}; write {IMAGE_MARK} instead")
    placed, shown = place_images(text, range(num_images))
    if placed.count(IMAGE_MARK) != len(shown):
        raise InputError(
            f"has {text.count(IMAGE_MARK)} {IMAGE_MARK} marks and {num_images} images; write a mark for each, or none"
        )
