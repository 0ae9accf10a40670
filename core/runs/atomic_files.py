"""Atomic writes: a reader finds either the old content or the new, never a part of one."""

import errno
import fcntl
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from lab.core.errors import LabError, RunError

_NO_LOCKS = (
    "its file system has no locks ({strerror}); mount it with -o flock, or set LAB_OUTPUTS to a folder elsewhere"
)

# what the user can do; any other error is told in the words of the system
_HINTS = {
    errno.ENOSPC: "the disk is full; free some space",
    errno.EDQUOT: "the disk quota is used up; free some space",
    errno.EFBIG: "the file is larger than allowed; raise the limit on file sizes (ulimit -f)",
    errno.EROFS: "the file system is read-only; set LAB_OUTPUTS to a folder that can be written",
    errno.EACCES: "permission denied; set LAB_OUTPUTS to a folder that can be written",
    errno.EPERM: "permission denied; set LAB_OUTPUTS to a folder that can be written",
    errno.ENOENT: "its folder is not there any more, or cannot hold files; give another place, or start again",
    errno.ENOTDIR: "a part of the path is a file; set LAB_OUTPUTS to a folder that can be written",
    errno.ELOOP: "it is a link, or one of its folders is one in a circle; remove it",
    # Lustre that is mounted without them, and NFS without its lock daemon
    errno.ENOSYS: _NO_LOCKS,
    errno.ENOLCK: _NO_LOCKS,
    errno.EOPNOTSUPP: _NO_LOCKS,
    errno.EEXIST: "a file is in the way; set LAB_OUTPUTS to a folder that can be written",
}


# errors that writing meets rather than reading
WRITING_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS})

# prefixes: of what is being written, and of a folder that is being replaced
PARTIAL = ".partial-"
_REPLACED = ".replaced-"


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write to a temporary file next to `path`, flush it to disk, rename it into place.

    Raises:
        RunError: if the disk is full or the folder cannot be written; the old content is intact.
    """
    with file_atomically(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextmanager
def file_atomically(path: Path) -> Iterator[IO[bytes]]:
    """A temporary file next to `path` to write into; on exit it is flushed to disk and replaces `path`.

    The folder must be there: one that was deleted during a run is not created again.

    Raises:
        RunError: if the disk is full or the folder cannot be written; the old content is intact.
    """
    temporary = None
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=PARTIAL)
        with os.fdopen(handle, "w+b") as file:
            yield file
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
def path_atomically(path: Path) -> Iterator[Path]:
    """As `file_atomically`, for what writes a large file by its name: the name of a temporary file next to `path`.

    What earlier writes to `path` left that were killed is removed.

    Raises:
        RunError: if the disk is full or the folder cannot be written; the old content is intact.
    """
    temporary = lock = None
    try:
        prefix = _prefix_of(path)
        _remove_abandoned(path.parent, prefix)
        lock, temporary = tempfile.mkstemp(dir=path.parent, prefix=prefix)
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield Path(temporary)
        flush(Path(temporary))
        os.chmod(temporary, default_mode())
        os.replace(temporary, path)
        flush(path.parent)
    except OSError as error:
        raise as_run_error(error, path) from error
    finally:
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)
        if lock is not None:
            os.close(lock)


@contextmanager
def folder_atomically(path: Path) -> Iterator[Path]:
    """A temporary folder next to `path` to write into; on exit it is flushed to disk and replaces `path`.

    The folder above must be there, as for `file_atomically`.

    Raises:
        RunError: if the disk is full or the folder cannot be written; the old content is intact.
    """
    partial = lock = None
    try:
        prefix = _prefix_of(path)
        _remove_abandoned(path.parent, prefix)
        partial = Path(tempfile.mkdtemp(dir=path.parent, prefix=prefix))
        lock = os.open(partial, os.O_RDONLY)
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield partial
        for file in (*partial.iterdir(), partial):
            flush(file)
        # mkdtemp creates private folders; results get the user's default permissions
        os.chmod(partial, default_folder_mode())
        put_folder_in_place(partial, path)
    except OSError as error:
        raise as_run_error(error, path) from error
    finally:
        if partial is not None:
            shutil.rmtree(partial, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _prefix_of(path: Path) -> str:
    """How the names of what is being written to a path begin."""
    # not its name itself: with what is added it may be longer than names can be
    return f"{PARTIAL}{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:12]}."


def _remove_abandoned(parent: Path, prefix: str) -> None:
    """Remove what writes to the same place left that were killed; one that goes on holds a lock."""
    for path in parent.glob(f"{prefix}*"):
        with suppress(OSError):
            lock = os.open(path, os.O_RDONLY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink()
            finally:
                os.close(lock)


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


def make_folder(path: Path) -> None:
    """Make a folder, unless it is there, but none above it: one that was deleted in the middle of a run stays away.

    Raises:
        RunError: if it cannot be made.
    """
    try:
        path.mkdir(exist_ok=True)
    except OSError as error:
        raise as_run_error(error, path) from error


def remove_partial_folders(parent: Path) -> None:
    """Remove folders that a kill left half-written, and restore the ones they were about to replace."""
    for path in parent.glob(f"{_REPLACED}*"):
        name = path.name.removeprefix(_REPLACED).rpartition(".")[0]
        if (parent / name).exists():
            shutil.rmtree(path, ignore_errors=True)
        else:
            os.replace(path, parent / name)
    for path in parent.glob(f"{PARTIAL}*"):
        shutil.rmtree(path, ignore_errors=True)


def remove_partial_files(folder: Path, *, below: bool = True) -> None:
    """Remove everything in a folder, and `below` it, that a kill left half-written; nobody else may write there."""
    for path in (folder.rglob if below else folder.glob)(f"{PARTIAL}*"):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def refuse_no_file(path: Path) -> None:
    """Refuse a path at which no file can be written, before any work whose result goes there.

    Raises:
        RunError: if it is a folder, a pipe or a device, or as `refuse_unwritable`.
    """
    try:
        status = path.stat()
    except FileNotFoundError:
        status = None
    except OSError as error:
        raise RunError(f"{path} cannot be written: {error.strerror}; choose another place") from error
    # the root has no name either
    if not path.name or (status is not None and not stat.S_ISREG(status.st_mode)):
        raise RunError(f"{path} cannot be written: it is {_kind(status)}; give the name of a file")
    refuse_unwritable(path)


def refuse_special(path: Path, error: type[LabError]) -> None:
    """Refuse what is there but no file, before it is opened: reading a pipe waits for ever, a device may have no end.

    Raises:
        LabError: of the kind `error`.
    """
    try:
        status = path.stat()
    except OSError:
        # whoever opens it says why it cannot be
        return
    # files of data name others: a NUL, or half of a character
    except ValueError as fault:
        raise error(f"{str(path)!r} cannot be the name of a file ({fault}); give another one") from None
    if not stat.S_ISREG(status.st_mode):
        raise error(f"{path} cannot be read: it is {_kind(status)}; give a file")


def _kind(status: os.stat_result | None) -> str:
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
    return "a folder" if status is None else kinds.get(stat.S_IFMT(status.st_mode), "a device")


def refuse_unwritable(path: Path) -> None:
    """Refuse a path that cannot be created, before any work whose result goes there.

    What earlier writes to the path left that were killed is removed.

    Raises:
        RunError: naming the nearest existing parent, which is not writable.
    """
    _refuse_unwritable(path, path.absolute().parents, cure="choose another place")


def refuse_unwritable_folder(folder: Path) -> None:
    """Refuse a folder of the outputs, there or not, in which nothing can be created.

    Raises:
        RunError: naming the nearest part of it that exists, which is not writable.
    """
    cure = "set LAB_OUTPUTS to a folder that can be written"
    _refuse_unwritable(folder, (folder.absolute(), *folder.absolute().parents), cure=cure)


def _refuse_unwritable(path: Path, places: Iterable[Path], *, cure: str) -> None:
    nearest, prefix = path, _prefix_of(path)
    try:
        nearest = next(place for place in places if place.exists())
        _remove_abandoned(nearest, prefix)
        # only an attempt is conclusive: root ignores permissions, and permissions do not show a read-only disk
        attempt = tempfile.mkdtemp(dir=nearest, prefix=prefix)
        # another process that removes what was abandoned may come first
        with suppress(FileNotFoundError):
            os.rmdir(attempt)
    except OSError as error:
        raise RunError(f"{path} cannot be written: {nearest}: {error.strerror}; {cure}") from error


def as_run_error(error: OSError, path: Path) -> RunError:
    """`error`, met while `path` was written, as one line, with a hint where there is one."""
    source = Path(os.fsdecode(error.filename)) if error.filename is not None else path
    is_other = source != path and PARTIAL not in str(source)
    if error.errno == errno.ENOENT and is_other and path.parent.exists():
        return RunError(f"{source} cannot be read: it does not exist, and {path} is made of it; put it back")
    hint = _HINTS.get(error.errno or 0, "{strerror}; choose another place")
    return RunError(f"{path} cannot be written: {hint.format(strerror=error.strerror or error)}")


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


def default_folder_mode() -> int:
    """The permissions of a folder that the user makes."""
    return 0o777 & ~_umask()


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
