"""Features and targets in files of the user: .npy, .npz, .parquet and .safetensors, read a block of rows at a time.

Arrays are called features, targets (numbers) or labels (whole numbers, one class each), groups (the context of a row)
and clusters (rows that may be near-copies). A table has a column of lists called features, or a column for each
feature.
"""

# Letters: N rows, d features, m outputs, b rows of a block.

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Int64
from numpy import ndarray

from lab.core.data.documents import digest_of
from lab.core.errors import InputError
from lab.experiments.probe.rows import BLOCK, Block
from lab.experiments.probe.stored_arrays import Stored, arrays_of

# what one-hot columns and heads of all outputs are kept for
_MOST_OUTPUTS, _MOST_FEATURES = 4096, 16384


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
    _features: Stored
    _targets: Float64[ndarray, "N m"] | Int64[ndarray, " N"]

    def blocks(self) -> Iterator[Block]:
        """See `Rows.blocks`.

        Raises:
            InputError: naming the first row with a number that is not finite.
        """
        start = 0
        for part in _rebatched(self._features.parts()):
            if part.dtype.kind not in "iufb":
                raise InputError(f"{self.path}: features have type {part.dtype}, not real numbers; save numbers")
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
    found = arrays_of(path)
    if "features" not in found:
        raise InputError(f"{path} has {', '.join(found) or 'no array of a known name'}; call one of them features")
    features = found["features"]
    if len(features.shape) != 2 or 0 in features.shape:
        raise InputError(f"{path}: features have shape {features.shape}, not rows and columns; reshape them")
    if features.shape[1] > _MOST_FEATURES:
        raise InputError(f"{path}: {features.shape[1]} features are more than {_MOST_FEATURES}; project them first")
    if targets is not None:
        for name in ("targets", "labels"):
            found.pop(name, None)
        stored = _array("targets", targets)
        is_column = stored.shape[1:] in ((), (1,))
        # whole numbers or words in one column are classes
        found["labels" if is_column and next(stored.parts()).dtype.kind in "iubU" else "targets"] = stored
    if groups is not None:
        found["groups"] = _array("groups", groups)
    if ("targets" in found) == ("labels" in found):
        has = "both targets and labels" if "targets" in found else "neither targets nor labels"
        raise InputError(f"{path} has {has}; give one of them, or targets=FILE.npy")
    num_rows = features.shape[0]
    for name, stored in found.items():
        if stored.shape[:1] != (num_rows,):
            has = f"{stored.shape[0]} rows" if stored.shape else "no rows"
            raise InputError(f"{stored.path}: {name} have {has}, features {num_rows}; give one for each row")
    is_class = "labels" in found
    values = _labels(found["labels"]) if is_class else _targets(found["targets"])
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
        _numbered(found, "groups"),
        _numbered(found, "clusters"),
        features,
        values,
    )


def _labels(stored: Stored) -> Int64[ndarray, " N"]:
    kinds, numbers = _kinds("labels", stored)
    if kinds.size < 2:
        raise InputError(f"{stored.path}: all labels are {kinds[0]}; a head needs two classes or more to tell apart")
    return numbers


def _targets(stored: Stored) -> Float64[ndarray, "N m"]:
    values, path = stored.whole(), stored.path
    if values.dtype.kind not in "iuf" or values.ndim > 2 or values.size == 0:
        raise InputError(f"{path}: targets have shape {values.shape} and type {values.dtype}; give numbers in columns")
    values = values.astype(np.float64).reshape(len(values), -1)
    if not np.isfinite(values).all():
        row, column = np.argwhere(~np.isfinite(values))[0]
        raise InputError(f"{path}: targets[{row}, {column}]={values[row, column]} must be finite; leave the row out")
    return values


def _numbered(found: dict[str, Stored], name: str) -> Int64[ndarray, " N"] | None:
    return _kinds(name, found[name])[1] if name in found else None


def _kinds(name: str, stored: Stored) -> tuple[ndarray, Int64[ndarray, " N"]]:
    """What there is in one column of whole numbers or words, and which of it each row has."""
    values = stored.whole()
    if values.shape[1:] not in ((), (1,)) or values.dtype.kind not in "iubU":
        raise InputError(
            f"{stored.path}: {name} have shape {values.shape} and type {values.dtype}; give one whole number or word a "
            "row"
        )
    kinds, numbers = np.unique(values.ravel(), return_inverse=True)
    return kinds, np.asarray(numbers, np.int64)


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


def _array(key: str, path: Path) -> Stored:
    """The only array of a file that a key names."""
    if path.suffix != ".npy":
        raise InputError(f"{key}={path} does not end with .npy; save this array by itself, or leave {key} out")
    found = arrays_of(path)["features"]
    if not found.shape or 0 in found.shape:
        raise InputError(f"{key}={path} has shape {found.shape}; give one value or row for each row of the features")
    return found
