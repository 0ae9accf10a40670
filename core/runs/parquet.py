"""Rows of results as Parquet: typed columns, written atomically, a block of rows at a time, and read again."""

import io
import zlib
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from lab.core.errors import RunError
from lab.core.runs.atomic_files import file_atomically, refuse_special, write_atomically
from lab.core.runs.find import run_name
from lab.core.runs.sums import check_file

_BLOCK = 50_000
# a checksum for each page, which `read_table` compares: one wrong bit would be another number; no least and largest
# values, which no checksum covers and by which rows are left out
_CHECKED = {"write_page_checksum": True, "write_statistics": False}
# key of the schema's metadata with a checksum of the names of the columns, which pages do not hold
_NAMES = b"lab.columns.crc32"


def write_table(path: Path, rows: Iterable[Mapping[str, object]]) -> None:
    """Write rows; columns in order of first appearance, null where a row has no value.

    Raises:
        RunError: if the disk is full or the folder cannot be written.
    """
    with file_atomically(path) as file:
        table = _TableFile(file)
        table.write(rows)
        table.close()


class _TableFile:
    """A table that is being written; its schema widens where later rows need it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._writer: pq.ParquetWriter | None = None
        self._schema = pa.schema([])

    def write(self, rows: Iterable[Mapping[str, object]]) -> None:
        """Append rows."""
        remaining = iter(rows)
        while block := list(islice(remaining, _BLOCK)):
            names = list(dict.fromkeys([*self._schema.names, *(name for row in block for name in row)]))
            self._write(pa.table({name: [row.get(name) for row in block] for name in names}))

    def close(self) -> None:
        """Finish the file."""
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._file, _with_checksum(self._schema), **_CHECKED)
        self._writer.close()

    def _write(self, table: pa.Table) -> None:
        schema = pa.unify_schemas([self._schema, table.schema], promote_options="permissive")
        if self._writer is None or schema != self._schema:
            self._begin(schema)
        assert self._writer is not None, "it was begun"
        self._writer.write_table(table.cast(schema))

    def _begin(self, schema: pa.Schema) -> None:
        """Begin again with a wider schema, and copy what is written already."""
        written: list[pa.Table] = []
        if self._writer is not None:
            self._writer.close()
            self._file.flush()
            self._file.seek(0)
            content = pq.ParquetFile(io.BytesIO(self._file.read()))
            written = [content.read_row_group(index) for index in range(content.num_row_groups)]
            self._file.seek(0)
            self._file.truncate()
        self._schema = schema
        self._writer = pq.ParquetWriter(self._file, _with_checksum(schema), **_CHECKED)
        for table in written:
            missing = [name for name in schema.names if name not in table.schema.names]
            for name in missing:
                table = table.append_column(name, pa.nulls(len(table)))
            self._writer.write_table(table.select(schema.names).cast(schema))


def write_columns(path: Path, columns: Mapping[str, Sequence[object]]) -> None:
    """Write columns of equal length.

    Raises:
        RunError: if the disk is full or the folder cannot be written.
    """
    buffer = io.BytesIO()
    table = pa.table({name: list(values) for name, values in columns.items()})
    pq.write_table(table.cast(_with_checksum(table.schema)), buffer, **_CHECKED)
    write_atomically(path, buffer.getvalue())


def read_table(
    directory: Path,
    name: str = "table.parquet",
    *,
    columns: Sequence[str] | None = None,
    equal: Mapping[str, object] | None = None,
) -> pa.Table:
    """A table of a recorded run.

    Args:
        directory: of the run.
        name: of the file.
        columns: names; None for all.
        equal: columns and the value that rows must have, or a list of values; None for all rows.

    Raises:
        RunError: if it is not there, or damaged.
    """
    path = directory / name
    again = f"resume={run_name(directory)} writes it again"
    refuse_special(path, RunError)
    check_file(path, hint=again, error=RunError)
    filters = [(key, "in" if isinstance(value, list) else "=", value) for key, value in (equal or {}).items()]
    try:
        # a file and not its name, which may have letters that pyarrow cannot encode
        with path.open("rb") as file:
            schema = pq.read_schema(file)
            if _NAMES in (schema.metadata or {}) and schema.metadata[_NAMES] != _checksum(schema):
                raise RunError(f"{path} is damaged: its columns have other names than were written; {again}")
            file.seek(0)
            # one file, also if the folder's name looks like a partition
            return pq.read_table(
                file,
                columns=None if columns is None else list(columns),
                partitioning=None,
                filters=filters or None,
                page_checksum_verification=True,
            )
    except FileNotFoundError as error:
        raise RunError(
            f"{path} is not there: the run has no table yet; resume={run_name(directory)} goes on with it"
        ) from error
    except (OSError, pa.ArrowException) as error:
        raise RunError(f"{path} is damaged; {again}") from error


def _with_checksum(schema: pa.Schema) -> pa.Schema:
    return schema.with_metadata({_NAMES: _checksum(schema)})


def _checksum(schema: pa.Schema) -> bytes:
    return b"%08x" % zlib.crc32("\0".join(schema.names).encode())
