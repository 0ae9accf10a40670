"""Rows of a TSV file one at a time, and where each begins, so that a file of any size is read in little memory."""

import csv
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import IO

from lab.core.errors import InputError
from lab.core.runs.atomic_files import refuse_special

# of a row, with its images; photographs in base64 take a few million
MOST_BYTES = 256 * 2**20
_BOM = b"\xef\xbb\xbf"


class Rows:
    """The rows of a file in the layout that pandas writes: a header, tabs, quotes doubled inside of quoted cells.

    Attributes:
        path: of the file.
        columns: the names in its header.
    """

    def __init__(self, path: Path) -> None:
        """Read the header.

        Raises:
            InputError: if the file cannot be read, or has no header.
        """
        self.path = path
        refuse_special(path, InputError)
        # of the whole process: the default of 131,072 letters is less than a photograph
        csv.field_size_limit(MOST_BYTES)
        try:
            with path.open("rb") as file:
                _, header = next(_parsed(file, path, 0), (0, []))
                self._start = file.tell()
        except FileNotFoundError:
            raise InputError(f"{path} does not exist; give the path of a TSV file") from None
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}; give the path of a TSV file") from None
        twice = next((name for name in header if header.count(name) > 1), None)
        if twice is not None:
            raise InputError(f"{path} has two columns {twice!r}; rename one")
        self.columns = tuple(header)

    def __iter__(self) -> Iterator[tuple[int, Mapping[str, str]]]:
        """Where each row begins, in bytes, and its cells by column.

        Raises:
            InputError: naming the row, if it has another number of cells than the header, or is not text.
        """
        with self.path.open("rb") as file:
            file.seek(self._start)
            for number, (offset, cells) in enumerate(_parsed(file, self.path, self._start), start=1):
                yield offset, self._named(cells, f"row {number}")

    def at(self, offset: int) -> Mapping[str, str]:
        """The row that begins at an offset.

        Raises:
            InputError: if it is not there any more.
        """
        with self.path.open("rb") as file:
            file.seek(offset)
            _, cells = next(_parsed(file, self.path, offset), (0, []))
        return self._named(cells, f"the row at byte {offset:,}")

    def _named(self, cells: list[str], where: str) -> Mapping[str, str]:
        if len(cells) != len(self.columns):
            raise InputError(
                f"{self.path}: {where} has {len(cells)} cells, the header {len(self.columns)}; mend the file, in which "
                "cells are separated by tabs"
            )
        return dict(zip(self.columns, cells, strict=True))


def _parsed(file: IO[bytes], path: Path, start: int) -> Iterator[tuple[int, list[str]]]:
    """Where each row begins, and its cells."""
    end = start
    number = 0

    def lines() -> Iterator[str]:
        nonlocal end
        while line := file.readline(MOST_BYTES + 1):
            if len(line) > MOST_BYTES:
                raise csv.Error(f"it is longer than {MOST_BYTES // 2**20} MiB")
            end += len(line)
            yield line.removeprefix(_BOM).decode() if end == len(line) else line.decode()

    left = lines()
    while True:
        offset = end
        try:
            line = next(left, None)
            if line is None:
                return
            # a row with a photograph is one line without quotes: four times as fast as letter by letter
            is_plain = '"' not in line
            cells = (
                line.rstrip("\r\n").split("\t") if is_plain else next(csv.reader(chain([line], left), delimiter="\t"))
            )
        except (csv.Error, UnicodeDecodeError) as error:
            where = "the header" if not start and not number else f"row {number + bool(start)} from byte {offset:,}"
            raise InputError(f"{path}: {where} is not a row of a TSV file ({error}); mend the file") from None
        number += 1
        # pandas skips empty lines
        if cells not in ([], [""]):
            yield offset, cells
