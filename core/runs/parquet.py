"""Rows of results as Parquet: typed columns, written atomically."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from lab.core.runs.atomic_files import write_atomically


def write_table(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Write rows; columns in order of first appearance, null where a row has no value.

    Raises:
        RunError: if the disk is full or the folder cannot be written.
    """
    names = list(dict.fromkeys(name for row in rows for name in row))
    write_columns(path, {name: [row.get(name) for row in rows] for name in names})


def write_columns(path: Path, columns: Mapping[str, Sequence[object]]) -> None:
    """Write columns of equal length.

    Raises:
        RunError: if the disk is full or the folder cannot be written.
    """
    buffer = io.BytesIO()
    pq.write_table(pa.table({name: list(values) for name, values in columns.items()}), buffer)
    write_atomically(path, buffer.getvalue())
