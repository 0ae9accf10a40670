"""Several data sets in one file, as InternVL lists them: `{NAME: {root, annotation, repeat_time, length, ...}}`."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.core.data.conversation_files.kinds import files_in, meta_of
from lab.core.data.prompt_format import MOST_TILES
from lab.core.errors import InputError

_KNOWN = frozenset({"root", "annotation", "repeat_time", "length", "weight", "data_augment", "max_dynamic_patch"})


@dataclass(frozen=True, slots=True)
class DataSet:
    """One data set.

    Attributes:
        name: of it; empty if there is only one.
        files: that hold its samples.
        image_folder: that paths of pictures are relative to.
        repeat: below 1, the share that is read, from the start of each file; else how often an epoch reads its samples.
        weight: its share of an epoch, relative to that of the others; None if `repeat` says it.
        max_tiles: most tiles of a picture; None for that of the run.
    """

    name: str
    files: tuple[Path, ...]
    image_folder: Path
    repeat: float = 1.0
    weight: float | None = None
    max_tiles: int | None = None


def data_sets(path: Path, image_folder: Path | None) -> list[DataSet]:
    """The data sets that a path stands for.

    Args:
        path: of a file of any kind, a folder of them, or a list of data sets.
        image_folder: that paths of pictures, and of a list's data sets, are relative to; None for the folder of the
            file.

    Raises:
        InputError: if a file cannot be read, or an entry of a list is wrong.
    """
    folder = image_folder or (path if path.is_dir() else path.parent)
    files = files_in(path)
    meta = None if path.is_dir() else meta_of(path)
    if meta is None:
        return [DataSet("", tuple(files), folder)]
    found = [_entry(f"{path}: {name}", name, entry, folder) for name, entry in meta.items()]
    if len({each.weight is None for each in found}) > 1:
        raise InputError(f"{path} gives a weight to some data sets only; give one to each, or to none")
    return found


def _entry(label: str, name: str, entry: Any, folder: Path) -> DataSet:
    if not isinstance(entry, Mapping) or not isinstance(entry.get("annotation"), str):
        raise InputError(f"{label} must have the path of a file as its annotation; add it")
    unknown = sorted(entry.keys() - _KNOWN)
    if unknown:
        raise InputError(f"{label} has the key {unknown[0]}, which is not implemented; remove it")
    augment = entry.get("data_augment")
    if augment is True:
        raise InputError(f"{label} has data_augment=true, but pictures are never augmented; set it to false")
    if augment is not None and augment is not False:
        raise InputError(f"{label}: data_augment={augment!r} must be true or false; repair it")
    root = "" if entry.get("root") is None else entry["root"]
    if not isinstance(root, str):
        raise InputError(f"{label}: root={root!r} must be the path of a folder; repair it")
    annotation = folder / entry["annotation"]
    max_tiles = entry.get("max_dynamic_patch")
    if max_tiles is not None and (type(max_tiles) is not int or not 1 <= max_tiles <= MOST_TILES):
        raise InputError(
            f"{label}: max_dynamic_patch={max_tiles!r} must be a whole number from 1 to {MOST_TILES}; repair it"
        )
    return DataSet(
        name,
        tuple(files_in(annotation)),
        folder / root,
        1.0 if entry.get("repeat_time") is None else _number(label, "repeat_time", entry["repeat_time"]),
        None if entry.get("weight") is None else _number(label, "weight", entry["weight"]),
        max_tiles,
    )


def _number(label: str, key: str, value: Any) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 < value < 1e6:
        raise InputError(f"{label}: {key}={value!r} must be a number above 0 and below a million; repair it")
    return float(value)
