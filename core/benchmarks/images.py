"""Images in the rows of a benchmark: base64 in the column image, the index of another row, or names of files."""

import ast
import binascii
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from PIL import Image

from lab.core.benchmarks.question import is_missing
from lab.core.data.pixels import FORMATS, fault_of
from lab.core.data.tiling import read_image
from lab.core.errors import InputError

# a shorter cell is the index of the row that has the image, as in VLMEvalKit
_LONGEST_INDEX = 64
_IMAGE, _PATH = "image", "image_path"


def has_images(columns: Sequence[str]) -> bool:
    """Whether rows with these columns can have images."""
    return _IMAGE in columns or _PATH in columns


def is_left_out(row: Mapping[str, str]) -> bool:
    """Whether a row has no image although its file has them: VLMEvalKit does not ask those."""
    return _IMAGE in row and is_missing(row[_IMAGE])


def reference(row: Mapping[str, str]) -> str | None:
    """The index of the row that has this row's image; None if it has its own, or files."""
    cell = row.get(_IMAGE, "")
    return cell if 0 < len(cell) <= _LONGEST_INDEX and not cell.startswith("[") else None


def check_images(row: Mapping[str, str], folders: Sequence[Path]) -> int:
    """Refuse a row whose own images are missing, or do not begin like an image; how many there are.

    Raises:
        InputError: without the name of the row.
    """
    return len(_images(row, folders, _check))


def images_of(row: Mapping[str, str], folders: Sequence[Path]) -> list[Image.Image]:
    """The images of a row that has its own, read completely.

    Args:
        row: its cells.
        folders: where relative names of files are looked for.

    Raises:
        InputError: without the name of the row, if one is missing or damaged.
    """
    return _images(row, folders, read_image)


def _images(
    row: Mapping[str, str], folders: Sequence[Path], read: Callable[[io.BytesIO | Path, str], Image.Image]
) -> list[Image.Image]:
    if _IMAGE in row:
        cells = _listed(row[_IMAGE])
        return [read(_decoded(cell), f"image {number}") for number, cell in enumerate(cells, start=1)]
    if _PATH in row and not is_missing(row[_PATH]):
        return [read(_found(name, folders), name) for name in _listed(row[_PATH])]
    return []


def _check(source: io.BytesIO | Path, name: str) -> Image.Image:
    try:
        with Image.open(source, formats=FORMATS) as image:
            return image
    except MemoryError:
        raise
    # a damaged file raises whatever its format's reader met first
    except Exception as error:
        raise InputError(
            f"{name} is not an image that can be read ({fault_of(error)}); put a whole one in its place"
        ) from None


def _listed(cell: str) -> list[str]:
    """The entries of a cell: one, or a list as Python writes it."""
    if not cell.startswith("["):
        return [cell]
    try:
        found = ast.literal_eval(cell)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        raise InputError("its list of images is damaged; write it as Python does: ['…', '…']") from None
    if not isinstance(found, list) or not all(isinstance(entry, str) for entry in found):
        raise InputError("its list of images is damaged; write it as Python does: ['…', '…']")
    return found


def _decoded(cell: str) -> io.BytesIO:
    try:
        return io.BytesIO(binascii.a2b_base64(cell, strict_mode=True))
    except ValueError as error:
        raise InputError(f"its image is not base64 ({error}); encode its file again") from None


def _found(name: str, folders: Sequence[Path]) -> Path:
    places = [Path(name)] if Path(name).is_absolute() else [folder / name for folder in folders]
    for place in places:
        if place.is_file():
            return place
    raise InputError(f"its image {name} is not there, nor in {' or '.join(map(str, folders))}; put it there")
