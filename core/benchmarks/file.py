"""A benchmark in a TSV file with the layout of VLMEvalKit: checked as a whole, then read a row at a time.

Columns are index, question, answer, the options A, B, …, hint, category, l2-category, split, g_index, and image (in
base64, or the index of the row that has it) or image_path. Memory grows with the number of rows, by 24 bytes each, and
not with what they hold.
"""

import hashlib
import os
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from lab.core.benchmarks.images import check_images, has_images, images_of, is_left_out, reference
from lab.core.benchmarks.placing import refuse_wrong_marks
from lab.core.benchmarks.question import Question, is_missing
from lab.core.benchmarks.rows import Rows
from lab.core.benchmarks.spec import Benchmark
from lab.core.errors import InputError

# two of ten million rows have one digest with a probability of three in a million
_DIGEST_BYTES = 8


def open_file(path: Path, benchmark: Benchmark) -> "BenchmarkFile":
    """The questions of a file, read through once in this process as long as it does not change.

    Raises:
        InputError: as `BenchmarkFile`.
    """
    if not path.is_file():
        # says what is wrong with it
        return BenchmarkFile(path, benchmark)
    state = path.stat()
    return _read_once(path, benchmark, state.st_ino, state.st_size, state.st_mtime_ns)


class BenchmarkFile:
    """The questions of a file that are asked, in its order.

    Attributes:
        benchmark: that it holds.
        path: of the file.
        name: of the data set, as VLMEvalKit calls it: that of the file.
        has_images: whether its questions are about images.
        num_left_out: rows without an image in a file with images, which are not asked.
        digest: of the whole content.
    """

    def __init__(self, path: Path, benchmark: Benchmark) -> None:
        """Read through the file once, and check every row as far as that is possible without decoding its images.

        Raises:
            InputError: in one line, naming the row.
        """
        self.benchmark = benchmark
        self.path = path
        self.name = path.name.removesuffix(".tsv")
        self._rows = Rows(path)
        self.has_images = has_images(self._rows.columns)
        self._folders = [path.parent, path.parent / "images" / self.name]
        for column in ("index", "question", *benchmark.columns):
            if column not in self._rows.columns:
                has = ", ".join(self._rows.columns)
                raise InputError(f"{path} has no column {column!r}, which {benchmark.name} needs; it has {has}")
        self.num_left_out = 0
        self._offsets = array("q")
        # where the row of an index begins, for rows that refer to its image
        self._places = _Places()
        self.digest = self._read_through()

    def __len__(self) -> int:
        return len(self._offsets)

    def __getitem__(self, place: int) -> Question:
        """A question, without its images.

        Raises:
            InputError: if the file has changed.
        """
        return Question.of_row(self._rows.at(self._offsets[place]))

    def with_images(self, place: int) -> tuple[Question, list[Image.Image]]:
        """A question and its images, read completely.

        Raises:
            InputError: naming the row, if an image is damaged or the file has changed.
        """
        row = self._rows.at(self._offsets[place])
        question = Question.of_row(row)
        with _named(self.path, question.index):
            of = reference(row)
            if of is not None:
                row = self._row_of(of)
            return question, images_of(row, self._folders) if self.has_images else []

    def questions(self) -> Iterator[tuple[Question, Mapping[str, str]]]:
        """All questions that are asked, and the cells of their rows but the images, without keeping them."""
        for _, row in self._rows:
            if not is_left_out(row):
                yield Question.of_row(row), {name: cell for name, cell in row.items() if name != "image"}

    def _read_through(self) -> str:
        # for each row whose image others have, the first of them
        referred: dict[str, tuple[int, str]] = {}
        number = 0
        for number, (offset, row) in enumerate(self._rows, start=1):
            index = row["index"]
            if is_missing(index):
                raise InputError(f"{self.path}: row {number} has no index; give it one")
            with _named(self.path, index, number):
                self._places.add(index, offset)
                if is_left_out(row):
                    self.num_left_out += 1
                    continue
                question = Question.of_row(row)
                fault = self.benchmark.check(question)
                if fault is not None:
                    raise InputError(fault)
                of = reference(row)
                if of is None:
                    refuse_wrong_marks(self.benchmark.prompt(question), check_images(row, self._folders))
                else:
                    referred.setdefault(of, (number, index))
            self._offsets.append(offset)
        twice = self._places.close()
        if twice is not None:
            number, offset = twice
            with _named(self.path, self._rows.at(offset)["index"], number):
                raise InputError("has the index of an earlier row; give it another one")
        if not self._offsets:
            raise InputError(f"{self.path} holds no question{' with an image' if number else ''}; give another file")
        self._refuse_lost(referred)
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "blake2b").hexdigest()[:32]

    def _refuse_lost(self, referred: Mapping[str, tuple[int, str]]) -> None:
        for of, (number, index) in referred.items():
            with _named(self.path, index, number):
                row = self._row_of(of)
            with _named(self.path, of):
                if reference(row) is not None or is_left_out(row):
                    raise InputError("is where another row has its image from, and has none; mend it")

    def _row_of(self, index: str) -> Mapping[str, str]:
        offset = self._places.get(index)
        if offset is None:
            raise InputError(f"has {index!r} for its image: neither base64 nor the index of another row; mend it")
        return self._rows.at(offset)


@lru_cache(maxsize=16)
def _read_once(path: Path, benchmark: Benchmark, *state: int) -> BenchmarkFile:
    # a run is checked before it begins, and a large file takes minutes
    return BenchmarkFile(path, benchmark)


class _Places:
    """Where the row of an index begins: 16 bytes a row, since a file may have millions."""

    def __init__(self) -> None:
        self._keys, self._offsets = array("Q"), array("q")

    def add(self, index: str, offset: int) -> None:
        """Take in the next row."""
        self._keys.append(_key(index))
        self._offsets.append(offset)

    def close(self) -> tuple[int, int] | None:
        """Sort them, once all are there.

        Returns:
            Number and offset of the first row that has the index of an earlier one; None if there is none.
        """
        keys = np.asarray(self._keys)
        # of equal keys, the earlier row first
        order = np.argsort(keys, kind="stable")
        again = order[1:][keys[order][1:] == keys[order][:-1]]
        if len(again):
            return int(again.min()) + 1, self._offsets[int(again.min())]
        self._keys, self._offsets = (
            array("Q", keys[order].tobytes()),
            array("q", np.asarray(self._offsets)[order].tobytes()),
        )
        return None

    def get(self, index: str) -> int | None:
        """Where a row begins; None if there is no such row."""
        key = _key(index)
        place = bisect_left(self._keys, key)
        return self._offsets[place] if place < len(self._keys) and self._keys[place] == key else None


@contextmanager
def _named(path: Path, index: str, number: int | None = None) -> Iterator[None]:
    """Name file and row in errors."""
    try:
        yield
    except InputError as error:
        where = f"the row with index {index}" if number is None else f"row {number}, with index {index},"
        raise InputError(f"{path}: {where} {error}") from None


def _key(index: str) -> int:
    """A digest: names of rows may be long."""
    return int.from_bytes(hashlib.blake2b(os.fsencode(index), digest_size=_DIGEST_BYTES).digest(), "big")
