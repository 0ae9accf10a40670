"""Features and targets in files of the user: .npy, .npz, .parquet and .safetensors, read a block of rows at a time.

Arrays are called features, targets (numbers) or labels (whole numbers, one class each), groups (the context of a row)
and clusters (rows that may be near-copies). A table has a column of lists called features, or a column for each
feature.
"""

# Letters: N rows, d features, m outputs, b rows of a block.

import hashlib
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float64, Int64
from numpy import ndarray
from safetensors import SafetensorError, safe_open

from lab.core.data.documents import digest_of
from lab.core.errors import InputError
from lab.experiments.probe.rows import BLOCK, Block

_NAMES = ("features", "targets", "labels", "groups", "clusters")
_KINDS = (".npy", ".npz", ".parquet", ".safetensors")
# what one-hot columns and heads of all outputs are kept for
_MOST_OUTPUTS, _MOST_FEATURES = 4096, 16384

Parts = Callable[[], Iterator[ndarray]]


@dataclass(frozen=True, slots=True)
class _Stored:
    """An array in a file: its shape, and its rows in order, some at a time."""

    shape: tuple[int, ...]
    parts: Parts

    def whole(self) -> ndarray:
        """All of it."""
        return np.concatenate(list(self.parts()))


@dataclass(frozen=True, slots=True)
class FeatureFile:
    """See `Rows`.

    Attributes:
        path: of the features.
        digest: of the files.
    """

    path: Path
    digest: str
    shape: tuple[int, int, int]
    is_class: bool
    contexts: Int64[ndarray, " N"] | None
    clusters: Int64[ndarray, " N"] | None
    _features: _Stored
    _targets: Float64[ndarray, "N m"] | Int64[ndarray, " N"]

    def blocks(self) -> Iterator[Block]:
        """See `Rows.blocks`.

        Raises:
            InputError: naming the first row with a number that is not finite.
        """
        start = 0
        for part in _rebatched(self._features.parts()):
            features = part.astype(np.float64)
            stop = start + len(features)
            if not np.isfinite(features).all():
                row, column = np.argwhere(~np.isfinite(features))[0]
                raise InputError(
                    f"{self.path}: features[{start + row}, {column}]={features[row, column]} must be finite; leave the "
                    "row out, or fill it in"
                )
            targets = self._targets[start:stop]
            if self.is_class:
                targets = np.eye(self.shape[2])[targets]
            yield Block(start, features, np.asarray(targets, np.float64))
            start = stop


def open_features(path: Path, targets: Path | None, groups: Path | None) -> FeatureFile:
    """Find the arrays of a file, and check all but the features, which are checked as they are read.

    Args:
        path: of the features, and perhaps of the others.
        targets: a .npy file of targets or labels; None if they are in `path`.
        groups: a .npy file; None if they are in `path`, or there are none.

    Raises:
        InputError: naming file, array and what is wrong with it.
    """
    found = _arrays(path)
    if "features" not in found:
        raise InputError(f"{path} has {', '.join(found) or 'no array'}; call one of them features")
    features = found["features"]
    if len(features.shape) != 2 or 0 in features.shape:
        raise InputError(f"{path}: features have shape {features.shape}, not rows and columns; reshape them")
    if features.shape[1] > _MOST_FEATURES:
        raise InputError(f"{path}: {features.shape[1]} features are more than {_MOST_FEATURES}; project them first")
    if targets is not None:
        for name in ("targets", "labels"):
            found.pop(name, None)
        stored = _array("targets", targets)
        # whole numbers or words in one column are classes
        found["labels" if next(stored.parts()).dtype.kind in "iubU" and len(stored.shape) == 1 else "targets"] = stored
    if groups is not None:
        found["groups"] = _array("groups", groups)
    if ("targets" in found) == ("labels" in found):
        has = "both targets and labels" if "targets" in found else "neither targets nor labels"
        raise InputError(f"{path} has {has}; give one of them, or targets=FILE.npy")
    num_rows = features.shape[0]
    for name, stored in found.items():
        if stored.shape[:1] != (num_rows,):
            has = f"{stored.shape[0]} rows" if stored.shape else "no rows"
            raise InputError(f"{path}: {name} have {has}, features {num_rows}; give one for each row")
    is_class = "labels" in found
    values = _labels(found["labels"], path) if is_class else _targets(found["targets"], path)
    num_outputs = int(values.max()) + 1 if is_class else values.shape[1]
    if num_outputs > _MOST_OUTPUTS:
        raise InputError(f"{path}: {num_outputs} outputs are more than {_MOST_OUTPUTS}; choose among them")
    digest = hashlib.sha256()
    for file in (path, targets, groups):
        digest.update(b"-" if file is None else digest_of(file).encode())
    return FeatureFile(
        path,
        digest.hexdigest(),
        (num_rows, features.shape[1], num_outputs),
        is_class,
        _numbered(found, "groups", path),
        _numbered(found, "clusters", path),
        features,
        values,
    )


def _labels(stored: _Stored, path: Path) -> Int64[ndarray, " N"]:
    values = stored.whole()
    if values.ndim != 1 or values.dtype.kind not in "iubU":
        raise InputError(
            f"{path}: labels have shape {values.shape} and type {values.dtype}; give one whole number a row"
        )
    kinds, numbers = np.unique(values, return_inverse=True)
    if kinds.size < 2:
        raise InputError(f"{path}: all labels are {kinds[0]}; a head needs two classes or more to tell apart")
    return np.asarray(numbers, np.int64)


def _targets(stored: _Stored, path: Path) -> Float64[ndarray, "N m"]:
    values = stored.whole()
    if values.dtype.kind not in "iuf" or values.ndim > 2:
        raise InputError(f"{path}: targets have shape {values.shape} and type {values.dtype}; give numbers in columns")
    values = values.astype(np.float64).reshape(len(values), -1)
    if not np.isfinite(values).all():
        row, column = np.argwhere(~np.isfinite(values))[0]
        raise InputError(f"{path}: targets[{row}, {column}]={values[row, column]} must be finite; leave the row out")
    return values


def _numbered(found: dict[str, _Stored], name: str, path: Path) -> Int64[ndarray, " N"] | None:
    if name not in found:
        return None
    values = found[name].whole()
    if values.ndim != 1 or values.dtype.kind not in "iubU":
        raise InputError(f"{path}: {name} have shape {values.shape} and type {values.dtype}; give one number a row")
    return np.asarray(np.unique(values, return_inverse=True)[1], np.int64)


def _rebatched(parts: Iterator[ndarray]) -> Iterator[ndarray]:
    """The same rows, `BLOCK` at a time: sums do not depend on how a file stores them."""
    waiting: list[ndarray] = []
    size = 0
    for part in parts:
        waiting.append(part)
        size += len(part)
        if size >= BLOCK:
            rows = np.concatenate(waiting)
            whole = len(rows) // BLOCK * BLOCK
            yield from (rows[start : start + BLOCK] for start in range(0, whole, BLOCK))
            waiting, size = [rows[whole:]], len(rows) - whole
    if size:
        yield np.concatenate(waiting)


def _array(key: str, path: Path) -> _Stored:
    """The only array of a file that a key names."""
    if path.suffix != ".npy":
        raise InputError(f"{key}={path} does not end with .npy; save this array by itself, or leave {key} out")
    found = _arrays(path)["features"]
    if not found.shape or 0 in found.shape:
        raise InputError(f"{key}={path} has shape {found.shape}; give one value or row for each row of the features")
    return found


def _arrays(path: Path) -> dict[str, _Stored]:
    """The arrays of a file by their names; that of a .npy file is called features."""
    if path.suffix not in _KINDS:
        raise InputError(f"{path} ends with none of {', '.join(_KINDS)}; save the features as one of them")
    if not path.is_file():
        raise InputError(f"{path} does not exist; give a file with features")
    try:
        if path.suffix == ".npy":
            return {"features": _of_npy(path)}
        if path.suffix == ".npz":
            return dict(_of_npz(path))
        if path.suffix == ".safetensors":
            return dict(_of_safetensors(path))
        return dict(_of_table(path))
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, SafetensorError, pa.ArrowException) as error:
        if isinstance(error, InputError):
            raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path} cannot be read ({reason}); save it again") from None


def _of_npy(path: Path) -> _Stored:
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

    return _Stored(shape, parts)


def _of_npz(path: Path) -> Iterator[tuple[str, _Stored]]:
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.removesuffix(".npy") in _NAMES]
        for name in names:
            with archive.open(name) as file:
                shape, _, dtype = _header(file)
            _refuse_kind(path, name, dtype)

            def parts(name: str = name) -> Iterator[ndarray]:
                with zipfile.ZipFile(path) as opened, opened.open(name) as file:
                    yield from _streamed(file, f"{path}: {name}")

            yield name.removesuffix(".npy"), _Stored(shape, parts)


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


def _of_safetensors(path: Path) -> Iterator[tuple[str, _Stored]]:
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

            yield name, _Stored(shape, parts)


def _of_table(path: Path) -> Iterator[tuple[str, _Stored]]:
    schema, num_rows = pq.read_schema(path), pq.read_metadata(path).num_rows
    columns = {name: [name] for name in _NAMES if name in schema.names}
    if "features" not in columns:
        numeric = [
            field.name
            for field in schema
            if field.name not in _NAMES and (pa.types.is_floating(field.type) or pa.types.is_integer(field.type))
        ]
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
        yield name, _Stored((num_rows, *first.shape[1:]), parts)


def _matrix(batch: pa.RecordBatch, names: list[str], path: Path) -> ndarray:
    """Columns side by side; a column of lists of equal length is a matrix by itself."""
    arrays = []
    for name in names:
        column = batch.column(name)
        if column.null_count:
            raise InputError(f"{path}: {name} has empty entries; fill them in, or leave these rows out")
        if not (pa.types.is_list(column.type) or pa.types.is_fixed_size_list(column.type)):
            arrays.append(column.to_numpy(zero_copy_only=False))
            continue
        values = column.flatten().to_numpy(zero_copy_only=False)
        lengths = np.diff(column.offsets) if pa.types.is_list(column.type) else None
        if len(values) % max(len(column), 1) or (lengths is not None and np.ptp(lengths) != 0):
            raise InputError(f"{path}: the lists in {name} have different lengths; give rows of equal length")
        arrays.append(values.reshape(len(column), -1))
    if len(arrays) == 1:
        return np.asarray(arrays[0])
    return np.stack(arrays, axis=1)


def _refuse_kind(path: Path, name: str, dtype: np.dtype) -> None:
    if dtype.kind not in "iufbU":
        raise InputError(f"{path}: {name} has type {dtype}, not real numbers; save numbers without pickle")
