"""What the files of a data source hold, in a few bytes: a run that goes on compares it with what it began with."""

import hashlib
import os
from collections.abc import Callable, Iterable
from dataclasses import fields
from functools import lru_cache
from pathlib import Path
from typing import Any, TypedDict

from lab.core.errors import InputError
from lab.core.runs.atomic_files import refuse_special

# of a larger file, blocks that are spread evenly over it are read: fractions of a second, as for one of this size
_WHOLE = 1 << 26
_BLOCK = 1 << 16
# more files than these are one entry
_NAMED = 1000


class Content(TypedDict):
    """A file, or many.

    Attributes:
        path: absolute.
        bytes: how many.
        digest: SHA-256 of them; of more than 64 MiB, of 1,024 blocks of 64 KiB, spread evenly from start to end.
    """

    path: str
    bytes: int
    digest: str


def contents_of(files: Iterable[Path], digest_of: Callable[[Path], str] | None = None) -> dict[str, Content]:
    """The content of each file by its path as given; of very many, that of all by the folder of them.

    Args:
        files: of a data source.
        digest_of: of a file, where it is known; None for that of `Content`.

    Raises:
        InputError: if one cannot be read.
    """
    found = {str(path): _content_of(path, digest_of or sampled_digest) for path in files}
    if len(found) <= _NAMED:
        return found
    folder = os.path.commonpath(found)
    lines = "".join(f"{os.path.relpath(name, folder)} {each['digest']}\n" for name, each in found.items())
    digest = hashlib.sha256(lines.encode(errors="surrogateescape")).hexdigest()
    num_bytes = sum(each["bytes"] for each in found.values())
    return {folder: Content(path=os.path.abspath(folder), bytes=num_bytes, digest=digest)}


def contents_in_options(options: Any) -> dict[str, Content]:
    """The content of the files that the options of a source name.

    Raises:
        InputError: if one cannot be read.
    """
    named = [getattr(options, field.name) for field in fields(options)]
    return contents_of([path for path in named if isinstance(path, Path) and path.is_file()])


def sampled_digest(path: Path) -> str:
    """As `Content.digest`; read once in a process, as long as the file stays the same.

    Raises:
        OSError: if it cannot be read.
    """
    status = path.stat()
    return _sampled_digest(path, status.st_size, (status.st_mtime_ns, status.st_ino))


@lru_cache(maxsize=1 << 16)
def _sampled_digest(path: Path, size: int, version: tuple[int, int]) -> str:
    with open(path, "rb") as file:
        if size <= _WHOLE:
            return hashlib.file_digest(file, "sha256").hexdigest()
        digest, last = hashlib.sha256(), _WHOLE // _BLOCK - 1
        for number in range(last + 1):
            file.seek((size - _BLOCK) * number // last)
            digest.update(file.read(_BLOCK))
        return digest.hexdigest()


def _content_of(path: Path, digest_of: Callable[[Path], str]) -> Content:
    refuse_special(path, InputError)
    try:
        return Content(path=os.path.abspath(path), bytes=path.stat().st_size, digest=digest_of(path))
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); put it back") from None
