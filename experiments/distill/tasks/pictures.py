"""Small grey pictures of garments and digits, labelled with words, in training and test splits.

Built in are a selection of Fashion-MNIST (arXiv 1708.07747) and the UCI digits as distributed with scikit-learn;
sources and licences are in garments_and_digits.LICENSE.txt. Folders with the IDX files of Fashion-MNIST or MNIST can
replace either half.
"""

import gzip
import math
import zipfile
import zlib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
from jaxtyping import Integer, UInt8
from numpy import ndarray

from lab.core.data.stream import SPLITS
from lab.core.errors import InputError
from lab.core.runs.atomic_files import refuse_special

# Letters: N pictures, S side in pixels.

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
# Label in Fashion-MNIST -> word. Shirt, coat, T-shirt and sneaker are left out: at 28 x 28 a small model cannot
# distinguish them from others.
GARMENTS = {1: "trouser", 2: "pullover", 3: "dress", 5: "sandal", 8: "bag", 9: "boot"}

_IDX_NAMES = {"train": "train", "test": "t10k"}


@dataclass(frozen=True, slots=True)
class Pictures:
    """Pictures of one half, by the word for what they show.

    Attributes:
        by_word: for each word the pictures that show it, white on black.
    """

    by_word: dict[str, UInt8[ndarray, "N S S"]]


def load_pictures(split: str, *, garments: Path | None, digits: Path | None) -> Pictures:
    """The pictures of one split: the built-in ones, or from folders with IDX files.

    Args:
        split: `train` or `test`.
        garments: a folder with Fashion-MNIST's four IDX files, gzipped or not; None for the built-in pictures.
        digits: the same with MNIST's.

    Raises:
        InputError: if a file is missing or damaged, or there is no such split.
    """
    if split not in SPLITS:
        raise InputError(f"split={split!r} must be one of {', '.join(SPLITS)}; choose one")
    shipped = _shipped(split) if garments is None or digits is None else {}
    by_word: dict[str, UInt8[ndarray, "N S S"]] = {}
    for words, folder in ((GARMENTS, garments), (dict(enumerate(DIGITS)), digits)):
        if folder is None:
            by_word |= {word: shipped[word] for word in words.values()}
        else:
            by_word |= select(*read_idx_folder(folder, split), words)
    return Pictures(by_word)


def select(
    images: UInt8[ndarray, "N S S"], labels: Integer[ndarray, " N"], words: dict[int, str]
) -> dict[str, UInt8[ndarray, "M S S"]]:
    """Pictures by word, in their order.

    Raises:
        InputError: if a word has no picture.
    """
    by_word = {word: images[labels == label] for label, word in words.items()}
    for word, found in by_word.items():
        if not len(found):
            raise InputError(f"there is no picture of {word!r}; give the whole data set")
    return by_word


def read_idx_folder(folder: Path, split: str) -> tuple[UInt8[ndarray, "N S S"], UInt8[ndarray, " N"]]:
    """Images and labels of a split, from IDX files under their original names.

    Raises:
        InputError: if one is missing, damaged, or does not match the other.
    """
    stem = _IDX_NAMES[split]
    images = _read_idx(folder, f"{stem}-images-idx3-ubyte", 3)
    labels = _read_idx(folder, f"{stem}-labels-idx1-ubyte", 1)
    if len(images) != len(labels):
        raise InputError(f"{folder} has {len(images)} images but {len(labels)} labels for {split}; fetch both again")
    return images, labels


def _read_idx(folder: Path, name: str, num_axes: int) -> UInt8[ndarray, "..."]:
    """An array of bytes: two zero bytes, the type 8, the number of axes, their lengths, the content."""
    for path, opener in ((folder / f"{name}.gz", gzip.open), (folder / name, open)):
        if not path.exists():
            continue
        refuse_special(path, InputError)
        try:
            with opener(path, "rb") as file:
                content = file.read()
        except (OSError, EOFError, zlib.error) as error:
            raise InputError(f"{path} cannot be read ({error}); fetch it again") from None
        offset = 4 + 4 * num_axes
        shape = np.frombuffer(content[4:offset], ">u4").tolist() if len(content) >= offset else []
        if content[:4] != bytes((0, 0, 8, num_axes)) or len(content) - offset != math.prod(shape):
            raise InputError(f"{path} is not an IDX file of {num_axes} axes of bytes, or is truncated; fetch it again")
        return np.frombuffer(content, np.uint8, offset=offset).reshape(shape)
    raise InputError(f"{folder} has neither {name}.gz nor {name}; give the folder of the IDX files")


def _shipped(split: str) -> dict[str, UInt8[ndarray, "N S S"]]:
    resource = files("lab.experiments.distill.tasks").joinpath("garments_and_digits.npz")
    try:
        with resource.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return {word: archive[f"{split}.{word}"] for word in (*GARMENTS.values(), *DIGITS)}
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(f"{resource} is damaged ({error}); install the package again") from None
