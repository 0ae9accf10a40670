"""Atomic writes: a reader finds either the old content or the new, never a part of one."""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lab.core.errors import RunError

# errors the user can fix: disk full, quota, read-only file system, no permission, a file where a folder should be
_HINTS = {
    errno.ENOSPC: "the disk is full; free some space",
    errno.EDQUOT: "the disk quota is used up; free some space",
    errno.EFBIG: "the file is larger than allowed; raise the limit on file sizes (ulimit -f)",
    errno.EROFS: "the file system is read-only; set LAB_OUTPUTS to a folder that can be written",
    errno.EACCES: "permission denied; set LAB_OUTPUTS to a folder that can be written",
    errno.EPERM: "permission denied; set LAB_OUTPUTS to a folder that can be written",
    errno.ENOTDIR: "a part of the path is a file; set LAB_OUTPUTS to a folder that can be written",
    errno.EEXIST: "a file is in the way; set LAB_OUTPUTS to a folder that can be written",
}


_PARTIAL = ".partial-"
# prefix of a folder that is being replaced
_REPLACED = ".replaced-"


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write to a temporary file next to `path`, flush it to disk, rename it into place.

    Raises:
        RunError: if the disk is full or the folder cannot be written; the old content is intact.
    """
    data = content.encode() if isinstance(content, str) else content
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp creates private files; results get the user's default permissions
        os.chmod(temporary, default_mode())
        os.replace(temporary, path)
    except OSError as error:
        raise as_run_error(error, path) from error
    finally:
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)


@contextmanager
def folder_atomically(path: Path) -> Iterator[Path]:
    """A temporary folder next to `path` to write into; on exit it is flushed to disk and replaces `path`.

    Raises:
        RunError: if the disk is full or the folder cannot be written; the old content is intact.
    """
    partial = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(dir=path.parent, prefix=f"{_PARTIAL}{path.name}."))
        yield partial
        for file in (*partial.iterdir(), partial):
            flush(file)
        # mkdtemp creates private folders; results get the user's default permissions
        os.chmod(partial, 0o777 & ~_umask())
        put_folder_in_place(partial, path)
    except OSError as error:
        raise as_run_error(error, path) from error
    finally:
        if partial is not None:
            shutil.rmtree(partial, ignore_errors=True)


def put_folder_in_place(new: Path, path: Path) -> None:
    """Rename the folder `new` to `path`; the old folder is removed only once the new one is in place.

    A kill between the two renames leaves the old folder under another name; `remove_partial_folders` puts it back.
    """
    old = None
    if path.exists():
        old = Path(tempfile.mkdtemp(dir=path.parent, prefix=f"{_REPLACED}{path.name}."))
        # a folder can be renamed onto an empty one
        os.replace(path, old)
    os.replace(new, path)
    flush(path.parent)
    if old is not None:
        shutil.rmtree(old, ignore_errors=True)


def remove_partial_folders(parent: Path) -> None:
    """Remove folders that a kill left half-written, and restore the ones they were about to replace."""
    for path in parent.glob(f"{_REPLACED}*"):
        name = path.name.removeprefix(_REPLACED).rpartition(".")[0]
        if (parent / name).exists():
            shutil.rmtree(path, ignore_errors=True)
        else:
            os.replace(path, parent / name)
    for path in parent.glob(f"{_PARTIAL}*"):
        shutil.rmtree(path, ignore_errors=True)


def refuse_unwritable(path: Path) -> None:
    """Refuse a path that cannot be created, before any work whose result goes there.

    Raises:
        RunError: naming the nearest existing parent, which is not writable.
    """
    nearest = next(parent for parent in path.absolute().parents if parent.exists())
    try:
        # only an attempt is conclusive: root ignores permissions, and permissions do not show a read-only disk
        os.rmdir(tempfile.mkdtemp(dir=nearest, prefix=_PARTIAL))
    except OSError as error:
        raise RunError(f"{path} cannot be written: {nearest}: {error.strerror}; choose another place") from error


def refuse_unwritable_file(path: Path) -> None:
    """As `refuse_unwritable`, for a file, which may exist.

    Raises:
        RunError: also for a folder.
    """
    if path.is_dir():
        raise RunError(f"{path} is a folder; give the path of a file")
    refuse_unwritable(path)


def as_run_error(error: OSError, path: Path) -> Exception:
    """`error` as one line with a hint if the user can fix it, else `error` itself."""
    hint = _HINTS.get(error.errno or 0)
    return error if hint is None else RunError(f"{path} cannot be written: {hint}")


def flush(path: Path) -> None:
    """Flush a file or a folder to disk.

    Raises:
        OSError: if that fails.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def default_mode() -> int:
    """The permissions of a file that the user makes."""
    return 0o666 & ~_umask()


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
