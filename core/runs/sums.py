"""SHA256SUMS in a folder: a digest of each file there, which is compared whenever a file is read.

The format is that of sha256sum: `sha256sum -c SHA256SUMS` in the folder compares them too. Of a folder without the file
nothing is known, and nothing is said: public checkpoints have none.
"""

import hashlib
import os
import re
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

from lab.core.errors import LabError
from lab.core.runs.atomic_files import refuse_special

SUMS = "SHA256SUMS"

_LINE = re.compile(rb"(\\?)([0-9a-fA-F]{64}) [ *](.+)")
# sha256sum writes a name with one of them with escapes, and a backslash in front of the line
_ESCAPES = {"\\": "\\\\", "\n": "\\n", "\r": "\\r"}


def sums_of(folder: Path, names: Iterable[str]) -> bytes:
    """The content of SHA256SUMS for some files of a folder.

    Raises:
        OSError: if one cannot be read.
    """
    return b"".join(_line(name, file_digest(folder / name)) for name in sorted(names))


def write_sums(folder: Path) -> None:
    """Write SHA256SUMS of all files in a folder that is being made.

    Raises:
        OSError: if that fails.
    """
    (folder / SUMS).write_bytes(sums_of(folder, [path.name for path in folder.iterdir()]))


def check_file(path: Path, *, hint: str, error: type[LabError]) -> None:
    """Refuse a file that is not as SHA256SUMS beside it says.

    Args:
        path: of the file; one that is not listed, or not there, passes.
        hint: what the user can do about a file that was damaged.
        error: the kind of error.

    Raises:
        LabError: of the kind `error`, naming the file, and what to do if it was changed on purpose.
    """
    if path.exists():
        check_files(path.parent, hint=hint, error=error, only=lambda name: name == path.name)


def check_files(
    folder: Path, *, hint: str, error: type[LabError], only: Callable[[str], bool] = lambda name: True
) -> None:
    """Refuse a folder with a file that is not as its SHA256SUMS says, or that is missing.

    Args:
        folder: in which it is.
        hint: what the user can do about a file that was damaged.
        error: the kind of error.
        only: says of a name whether it is compared.

    Raises:
        LabError: of the kind `error`, naming the file, and what to do if it was changed on purpose.
    """
    content = _content(folder, error)
    while content is not None:
        wrong = next((fault for fault in _faults(folder, content, only, hint, error) if fault is not None), None)
        if wrong is None:
            return
        # a run that goes on takes the file away before it changes the others
        before, content = content, _content(folder, error)
        if content == before:
            raise error(f"{wrong}; {hint}, or delete its line in {folder / SUMS} if you changed it on purpose")


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal.

    Raises:
        OSError: if it cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def known_digest(path: Path) -> str:
    """`file_digest`, which is not computed again while size and time of the file are the same.

    Raises:
        OSError: if it cannot be read.
    """
    status = path.stat()
    return _known(path, status.st_size, status.st_mtime_ns)


@cache
def _known(path: Path, size: int, modified: int) -> str:
    return file_digest(path)


def _content(folder: Path, error: type[LabError]) -> bytes | None:
    path = folder / SUMS
    refuse_special(path, error)
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as fault:
        raise error(f"{path} cannot be read ({fault.strerror}); make it readable, or remove it") from fault


def _faults(
    folder: Path, content: bytes, only: Callable[[str], bool], hint: str, error: type[LabError]
) -> Iterable[str | None]:
    """What is wrong with each file that is compared; None if nothing is."""
    for number, line in enumerate(content.splitlines(), start=1):
        found = _LINE.fullmatch(line)
        if found is None:
            raise error(
                f"{folder / SUMS}, line {number}: must be a digest, two spaces and the name of a file; {hint}, or "
                f"remove {SUMS} to go without"
            )
        name = os.fsdecode(found[3])
        if found[1]:
            name = re.sub(r"\\([\\nr])", lambda escape: {"n": "\n", "r": "\r"}.get(escape[1], "\\"), name)
        if only(name):
            yield _fault(folder / name, found[2].decode().lower(), error)


def _fault(path: Path, digest: str, error: type[LabError]) -> str | None:
    refuse_special(path, error)
    try:
        is_same = known_digest(path) == digest
    # a damaged list may name what cannot be a file
    except (OSError, ValueError) as fault:
        reason = fault.strerror if isinstance(fault, OSError) else fault
        return f"{path} is listed in {SUMS} but cannot be read ({reason})"
    return None if is_same else f"{path} is damaged or was changed: {SUMS} has another digest of it"


def _line(name: str, digest: str) -> bytes:
    escaped = "".join(_ESCAPES.get(character, character) for character in name)
    mark = "\\" if escaped != name else ""
    return os.fsencode(f"{mark}{digest}  {escaped}\n")
