"""A package with the functions of easy-vqa and a few questions, for tests that run without it."""

import types
from pathlib import Path

from PIL import Image

TEST = (
    ["what shape is in the image?", "is there a red shape?", "what color is the shape?", "is there a red shape?"],
    ["circle", "no", "blue", "yes"],
)
TRAIN = (
    ["is there a red shape?", "is there a red shape?", "is there a red shape?", "what color is the shape?"] * 3
    + ["what shape is in the image?"] * 2,
    ["no", "no", "yes", "blue"] * 3 + ["circle"] * 2,
)
# what each question is about
IMAGES = {"train": [0, 0, 1, 1] * 3 + [0, 1], "test": [7, 7, 8, 8]}


def easy_vqa_package(folder: Path) -> types.ModuleType:
    """The package, with its images in a folder."""
    module = types.ModuleType("easy_vqa")
    for split, (texts, answers) in (("train", TRAIN), ("test", TEST)):
        images = IMAGES[split]
        paths = {number: folder / f"{split}{number}.png" for number in set(images)}
        for number, path in paths.items():
            Image.new("RGB", (64, 64), (number, len(split), 0)).save(path)
        questions = texts, answers, images
        setattr(module, f"get_{split}_questions", lambda questions=questions: questions)
        setattr(module, f"get_{split}_image_paths", lambda paths=paths: {i: str(path) for i, path in paths.items()})
    return module
