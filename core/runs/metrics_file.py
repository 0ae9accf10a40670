"""metrics.jsonl of a run, held open: rows are appended under a running checksum, and read without damaged lines."""

import fcntl
import os
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Generic, TypeVar

from lab.core.errors import RunError
from lab.core.runs.atomic_files import as_run_error, file_atomically, refuse_special
from lab.core.runs.checked_lines import Findings, encode, read
from lab.core.runs.find import run_name
from lab.core.runs.row_store import RowStore

Row = TypeVar("Row", bound=Mapping[str, object])

# rows that are written anew at a time
_BLOCK = 1000
# lines that a message names
_NAMED = 3


class MetricsFile(Generic[Row]):
    """The rows of one run, on disk and in memory.

    Attributes:
        path: of the file.
        rows: all rows that count, in order.
        crc: the checksum after the last line.
        damaged: numbers of the lines that were not as they had been written when the file was opened.
    """

    def __init__(self, path: Path) -> None:
        """Open the file, or make it; a last line that a kill cut off is removed.

        Raises:
            RunError: if it cannot be read or written, or another process has opened it.
        """
        self.path = path
        refuse_special(path, RunError)
        try:
            self._open()
        except OSError as error:
            raise as_run_error(error, path) from error

    def _open(self) -> None:
        found = Findings()
        # before they are read again: twice the rows may be too many
        self.rows: RowStore[Row] = RowStore()
        # no link: in a run folder from somebody else it could lead to any file of the user's
        self._handle = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            # besides the lock of the folder, a file that somebody may delete
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._handle)
            raise RunError(f"{self.path} is open in another process; wait for it, or start a new run") from error
        with open(self._handle, "rb", closefd=False) as file:
            self.rows.extend(read(file, found))  # type: ignore[arg-type]  # the study's: configurations agree
        if os.fstat(self._handle).st_size > found.size:
            os.ftruncate(self._handle, found.size)
        self.crc, self.damaged, self._size = found.crc, found.damaged, found.size

    def damage(self) -> str | None:
        """Which lines were damaged, in words; None if none was."""
        if not self.damaged:
            return None
        more = len(self.damaged) - _NAMED
        named = ", ".join(map(str, self.damaged[:_NAMED])) + (f" and {more} more" if more > 0 else "")
        are = "lines" if len(self.damaged) > 1 else "line"
        return f"{self.path}: {are} {named} not as written, or lines before missing"

    def loss(self, recorded: object, *, is_gone: bool) -> str | None:
        """How many rows are missing since an attempt ended, in words; None if none is known to be.

        Args:
            recorded: the number of rows then; anything else if it is not known.
            is_gone: whether the file was not there.
        """
        if isinstance(recorded, int) and len(self.rows) < recorded:
            return f"{self.path}: {recorded - len(self.rows)} of the {recorded} rows that it held are gone"
        return f"{self.path} is gone" if is_gone else None

    def refuse_other(self, recorded: object, crc: object) -> None:
        """Refuse a file that is whole, but not the one that the attempt before has written.

        Args:
            recorded: the number of rows when it ended; anything else if it is not known.
            crc: the checksum then.

        Raises:
            RunError: with what can be done.
        """
        if not self.damaged and len(self.rows) == recorded and isinstance(crc, int) and crc != self.crc:
            raise RunError(
                f"{self.path} holds other rows than this run has recorded; put its file back, or remove it to compute "
                "everything again"
            )

    def append(self, rows: Sequence[Row]) -> None:
        """Append rows to the file in one write, not yet to `rows`.

        Raises:
            RunError: if the disk is full, or the file was deleted or replaced.
        """
        self.refuse_gone()
        lines, crc = encode(rows, self.crc)
        try:
            written = os.write(self._handle, lines)
            if written != len(lines):
                os.write(self._handle, lines[written:])
        except OSError as error:
            # a part of them may be there
            self._size = os.fstat(self._handle).st_size
            raise as_run_error(error, self.path) from error
        self.crc = crc
        self._size += len(lines)

    def flush(self) -> None:
        """Flush what was appended to disk: what is written afterwards may count on it.

        Raises:
            RunError: if that fails, or the file was deleted or replaced.
        """
        self.refuse_gone()
        try:
            os.fsync(self._handle)
        except OSError as error:
            raise as_run_error(error, self.path) from error

    def keep(self, counts: Callable[[Row], bool]) -> None:
        """Keep only the rows that count; the file is written anew if any does not, or lines were damaged."""
        if not self.damaged and all(map(counts, self.rows)):
            return
        crc, kept = 0, filter(counts, self.rows)
        with file_atomically(self.path) as file:
            while block := list(islice(kept, _BLOCK)):
                lines, crc = encode(block, crc)
                file.write(lines)
        self.close()
        try:
            self._open()
        except OSError as error:
            raise as_run_error(error, self.path) from error

    def refuse_gone(self) -> None:
        """Refuse to go on where the file is not as this process has left it: nothing is begun anew in the middle.

        Raises:
            RunError: naming it.
        """
        ours = os.fstat(self._handle)
        try:
            there = os.stat(self.path)
        except OSError:
            there = None
        if there is None or (there.st_ino, there.st_dev) != (ours.st_ino, ours.st_dev):
            raise RunError(f"{self.path} was deleted or replaced while the run went on; start the run again")
        if ours.st_size != self._size:
            raise RunError(
                f"{self.path} was changed by another program while the run went on; "
                f"resume={run_name(self.path.parent)} keeps the rows that are whole"
            )

    def close(self) -> None:
        """Close the file."""
        os.close(self._handle)
