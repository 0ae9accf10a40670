"""Compiled libraries in the user's cache: only what this user has written, and only what is whole, is ever loaded.

A library's name ends with the digest of its content, so a file that was cut off or changed is seen before it is loaded.
"""

import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lab.core.streams import say

_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH
_DIGITS = 16


def user_cache() -> Path:
    """The folder of what is made once on a machine, in XDG_CACHE_HOME or ~/.cache; it need not exist."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ssm-lab"


def library_folder() -> Path:
    """Where libraries are kept in the user's cache. Made if it is not there.

    Raises:
        OSError: if it cannot be made, or belongs to another user, who could put any code there.
    """
    folder = user_cache() / "native"
    folder.parent.parent.mkdir(parents=True, exist_ok=True)
    for part in (folder.parent, folder):
        part.mkdir(mode=0o700, exist_ok=True)
        status = part.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
            raise PermissionError(f"{part} is not a folder of this user, so code in it cannot be trusted")
        if status.st_mode & _BY_OTHERS:
            part.chmod(status.st_mode & ~_BY_OTHERS)
    return folder


def find_library(folder: Path, name: str) -> Path | None:
    """A library of this name that is whole; those that are not are deleted."""
    for path in sorted(folder.glob(f"{name}-{'[0-9a-f]' * _DIGITS}.so")):
        if _is_trusted(path) and path.stem.rpartition("-")[2] == _digest(path):
            return path
        say(f"{path} is damaged, or another user's: it is compiled again")
        path.unlink(missing_ok=True)
    return None


@contextmanager
def new_library(folder: Path, name: str) -> Iterator[Path]:
    """A file to compile into; on exit it is flushed to disk and gets the name that `find_library` finds.

    Two processes may do so at once: each renames a complete file.
    """
    handle, partial = tempfile.mkstemp(dir=folder, prefix=f".{name}.")
    os.close(handle)
    path = Path(partial)
    try:
        yield path
        with path.open("rb") as file:
            os.fsync(file.fileno())
        path.chmod(0o700)
        path.replace(folder / f"{name}-{_digest(path)}.so")
    finally:
        path.unlink(missing_ok=True)


def _is_trusted(path: Path) -> bool:
    status = path.lstat()
    return stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & _BY_OTHERS


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:_DIGITS]
