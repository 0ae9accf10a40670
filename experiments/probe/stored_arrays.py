"""Arrays in .npy, .npz, .parquet and .safetensors files, read a block of rows at a time; nothing is unpickled."""

import re
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy import ndarray
from safetensors import SafetensorError, safe_open

from lab.core.errors import InputError
from lab.core.streams import say
from lab.experiments.probe.rows import BLOCK

_NAMES = ("features", "targets", "labels", "groups", "clusters")
_KINDS = (".npy", ".npz", ".parquet", ".safetensors")
# what pandas calls an index without a name
_INDEX = re.compile(r"__index_level_\d+__")
_ARE_WORDS = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
# columns in a sentence
_MOST_NAMED = 10

Parts = Callable[[], Iterator[ndarray]]


@dataclass(frozen=True, slots=True)
class Stored:
    """An array in a file.

    Attributes:
        path: of the file.
        shape: of the array.
        read: gives its rows in order, some at a time.
    """

    path: Path
    shape: tuple[int, ...]
    read: Parts

    def parts(self) -> Iterator[ndarray]:
        """The rows in order, some at a time.

        Raises:
            InputError: if the file is damaged, or its rows are not of equal length.
        """
        with _in_one_line(self.path):
            for part in self.read():
                if part.shape[1:] != self.shape[1:]:
                    raise InputError(f"{self.path}: the lists in a column have different lengths; make them equal")
                yield part

    def whole(self) -> ndarray:
        """All of it."""
        return np.concatenate(list(self.parts()))


def arrays_of(path: Path) -> dict[str, Stored]:
    """The arrays of a file by their names; that of a .npy file is called features.

    Raises:
        InputError: if there is no such file, or it cannot be read.
    """
    if path.suffix not in _KINDS:
        raise InputError(f"{path} ends with none of {', '.join(_KINDS)}; save the features as one of them")
    if not path.is_file():
        raise InputError(f"{path} does not exist; give a file with features")
    with _in_one_line(path):
        if path.suffix == ".npy":
            return {"features": _of_npy(path)}
        if path.suffix == ".npz":
            return dict(_of_npz(path))
        if path.suffix == ".safetensors":
            return dict(_of_safetensors(path))
        return dict(_of_table(path))


@contextmanager
def _in_one_line(path: Path) -> Iterator[None]:
    """Whatever the readers of a format raise, as one error that names the file."""
    try:
        yield
    except InputError:
        raise
    # safetensors and zipfile raise errors of the run time, too
    except (
        OSError,
        EOFError,
        ValueError,
        RuntimeError,
        zipfile.BadZipFile,
        zlib.error,
        SafetensorError,
        pa.ArrowException,
    ) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path} cannot be read ({reason}); save it again") from None


def _of_npy(path: Path) -> Stored:
    with path.open("rb") as file:
        shape, is_columns, dtype = _header(file)
    _refuse_kind(path, path.stem, dtype)

    def parts() -> Iterator[ndarray]:
        if is_columns and len(shape) == 2:
            mapped = np.load(path, mmap_mode="r", allow_pickle=False)
            yield from (np.array(mapped[start : start + BLOCK]) for start in range(0, shape[0], BLOCK))
            return
        # read, not mapped: pages of a mapped file stay in memory
        with path.open("rb") as file:
            yield from _streamed(file, f"{path}")

    return Stored(path, shape, parts)


def _of_npz(path: Path) -> Iterator[tuple[str, Stored]]:
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.removesuffix(".npy") in _NAMES]
        for name in names:
            with archive.open(name) as file:
                shape, _, dtype = _header(file)
            _refuse_kind(path, name, dtype)

            def parts(name: str = name) -> Iterator[ndarray]:
                with zipfile.ZipFile(path) as opened, opened.open(name) as file:
                    yield from _streamed(file, f"{path}: {name}")

            yield name.removesuffix(".npy"), Stored(path, shape, parts)


def _streamed(file: IO[bytes], label: str) -> Iterator[ndarray]:
    """The rows of an array that is stored row by row; one that is stored column by column as a whole."""
    shape, is_columns, dtype = _header(file)
    if is_columns and len(shape) == 2:
        yield np.frombuffer(file.read(), dtype).reshape(shape, order="F")
        return
    size = int(np.prod(shape[1:])) * dtype.itemsize
    for start in range(0, shape[0], BLOCK):
        number = min(BLOCK, shape[0] - start)
        content = file.read(number * size)
        if len(content) < number * size:
            raise InputError(f"{label} is cut off; save it again")
        yield np.frombuffer(content, dtype).reshape(number, *shape[1:])


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, is_columns, dtype = read(file)
    return shape, bool(is_columns), dtype


def _of_safetensors(path: Path) -> Iterator[tuple[str, Stored]]:
    with safe_open(path, "numpy") as file:
        for name in file.keys():  # noqa: SIM118  - it has no iterator
            if name not in _NAMES:
                continue
            shape = tuple(file.get_slice(name).get_shape())

            def parts(name: str = name, shape: tuple[int, ...] = shape) -> Iterator[ndarray]:
                with safe_open(path, "pt") as opened:
                    values = opened.get_slice(name)
                    for start in range(0, shape[0], BLOCK):
                        part = values[start : start + BLOCK]
                        # numpy has no bfloat16
                        yield (part.float() if part.dtype.itemsize < 4 and part.is_floating_point() else part).numpy()

            yield name, Stored(path, shape, parts)


def _of_table(path: Path) -> Iterator[tuple[str, Stored]]:
    schema, num_rows = pq.read_schema(path), pq.read_metadata(path).num_rows
    twice = next((name for name in schema.names if schema.names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"{path} has several columns {twice}; rename all but one")
    columns = {name: [name] for name in _NAMES if name in schema.names}
    if "features" not in columns:
        numeric = [
            field.name for field in schema if field.name not in (*_NAMES, *_index(schema)) and _is_number(field.type)
        ]
        _say_left_out(path, [name for name in schema.names if name not in (*_NAMES, *numeric)])
        columns["features"] = numeric
    for name, chosen in columns.items():
        if not chosen:
            continue

        def parts(chosen: list[str] = chosen) -> Iterator[ndarray]:
            with pq.ParquetFile(path) as table:
                for batch in table.iter_batches(BLOCK, columns=chosen):
                    yield _matrix(batch, chosen, path)

        try:
            first = next(parts())
        except StopIteration:
            raise InputError(f"{path} has no rows; give some") from None
        yield name, Stored(path, (num_rows, *first.shape[1:]), parts)


def _is_number(kind: pa.DataType) -> bool:
    """Whether a column is a feature: numbers, and yes or no, as pandas writes dummy variables."""
    of_kind = pa.types.is_floating, pa.types.is_integer, pa.types.is_boolean, pa.types.is_decimal
    return any(is_kind(kind) for is_kind in of_kind)


@cache
def _say_once(sentence: str) -> None:
    """A file is opened several times before a run begins."""
    say(sentence)


def _say_left_out(path: Path, names: list[str]) -> None:
    """Say which columns are no features."""
    if names:
        shown = ", ".join(names[:_MOST_NAMED]) + (", …" if len(names) > _MOST_NAMED else "")
        _say_once(f"{path}: columns that are left out, since they are no numbers or an index: {shown}")


def _index(schema: pa.Schema) -> list[str]:
    """The columns that pandas wrote as numbers of rows."""
    known = (schema.pandas_metadata or {}).get("index_columns", [])
    return [name for name in schema.names if name in known or _INDEX.fullmatch(name)]


def _matrix(batch: pa.RecordBatch, names: list[str], path: Path) -> ndarray:
    """Columns side by side; a column of lists of equal length is a matrix by itself."""
    arrays = []
    for name in names:
        column = batch.column(name)
        if column.null_count:
            raise InputError(f"{path}: {name} has empty entries; fill them in, or leave these rows out")
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        if pa.types.is_decimal(column.type):
            column = column.cast(pa.float64())
        if any(is_words(column.type) for is_words in _ARE_WORDS):
            arrays.append(np.array(column.to_pylist(), np.str_))
            continue
        has_offsets = pa.types.is_list(column.type) or pa.types.is_large_list(column.type)
        if not (has_offsets or pa.types.is_fixed_size_list(column.type)):
            arrays.append(column.to_numpy(zero_copy_only=False))
            continue
        values = column.flatten().to_numpy(zero_copy_only=False)
        lengths = np.diff(column.offsets) if has_offsets else None
        if len(values) % max(len(column), 1) or (lengths is not None and np.ptp(lengths) != 0):
            raise InputError(f"{path}: the lists in {name} have different lengths; give rows of equal length")
        arrays.append(values.reshape(len(column), -1))
    if names[0] in _NAMES:
        return np.asarray(arrays[0])
    return np.stack(arrays, axis=1)


def _refuse_kind(path: Path, name: str, dtype: np.dtype) -> None:
    if dtype.kind not in "iufbU":
        raise InputError(
            f"{path}: {name} has type {dtype}, not real numbers or words; convert it, and save without pickle"
        )
