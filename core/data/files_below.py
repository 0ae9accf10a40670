"""Files of data below a folder: every one is read, refused by name, or said not to be read."""

import os
from collections import Counter
from collections.abc import Collection
from functools import cache
from pathlib import Path

from lab.core.errors import InputError
from lab.core.runs.atomic_files import refuse_special
from lab.core.streams import say

# of compressed files, by what they begin with
COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PK\x03\x04": "zip",
}
_ENDINGS = frozenset({".gz", ".bz2", ".xz", ".zst", ".zip"})
_SHORT = {".tgz": ".tar.gz", ".tbz2": ".tar.bz2", ".txz": ".tar.xz"}


def compression_of(start: bytes) -> str | None:
    """The name of the compression that bytes at the start of a file show; None if there is none."""
    return next((name for magic, name in COMPRESSED.items() if start.startswith(magic)), None)


def start_of(path: Path, num_bytes: int, *, give: str) -> bytes:
    """The first bytes of a file.

    Raises:
        InputError: if it cannot be read, with what to give instead.
    """
    refuse_special(path, InputError)
    try:
        with open(path, "rb") as file:
            return file.read(num_bytes)
    except OSError as error:
        raise unreadable(path, error, give=give) from None


def unreadable(path: Path, error: OSError, *, give: str) -> InputError:
    """That a file cannot be read, and what to give instead."""
    return InputError(f"{path} cannot be read ({error.strerror}); give {give}")


def files_below(folder: Path, suffixes: Collection[str]) -> tuple[list[Path], list[Path]]:
    """The files of a folder with these suffixes, in letters of any case, and the others; both sorted by their paths.

    Links are followed, each folder is read once, and names that begin with a dot are left out: they are copies and
    notes of programs.

    Raises:
        InputError: if a folder cannot be read, or a file is a compressed one whose content has such a suffix.
    """
    found: list[Path] = []
    others: list[Path] = []
    seen: set[tuple[int, int]] = set()
    for place, folders, names in os.walk(folder, followlinks=True, onerror=_refuse):
        status = os.stat(place)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        # links come last, so that the paths of files are those without
        folders[:] = sorted(
            (name for name in folders if not name.startswith(".")),
            key=lambda name, at=place: (os.path.islink(os.path.join(at, name)), name),  # type: ignore[misc]
        )
        for name in names:
            if not name.startswith("."):
                path = Path(place, name)
                (found if path.suffix.lower() in suffixes else others).append(path)
    for path in sorted(others):
        _refuse_compressed(path, suffixes)
    return sorted(found), sorted(others)


@cache
def say_others(folder: Path, num_read: int, others: tuple[Path, ...]) -> None:
    """Say once in a process how many files of a folder are read, and which kinds are not."""
    kinds = Counter(path.suffix.lower() or "without ending" for path in others)
    if kinds:
        listed = ", ".join(f"{kind} {count:,}" for kind, count in kinds.most_common(5)) + ", …" * (len(kinds) > 5)
        say(f"{folder}: {num_read:,} files are read, {len(others):,} others are not ({listed})")


def _refuse(error: OSError) -> None:
    raise InputError(f"{error.filename} cannot be read ({error.strerror}); make it readable, or take it away") from None


def _refuse_compressed(path: Path, suffixes: Collection[str]) -> None:
    ending = path.suffix.lower()
    name = path.with_suffix(_SHORT[ending]) if ending in _SHORT else path
    # one that lies beside its own content was unpacked already
    content = name.with_suffix("")
    if name.suffix.lower() in _ENDINGS and content.suffix.lower() in suffixes and not content.exists():
        raise InputError(f"{path} is compressed, and would not be read; unpack it, or take it out of the folder")
