"""Parquet tables of conversations, as Hugging Face keeps them: pictures are {bytes, path}, or paths."""

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lab.core.data.conversation_files.record import CONVERSATION_KEYS, IMAGE_KEYS, HeldOut, split_key
from lab.core.errors import InputError

# of one group of rows, which is read for each of them
_LARGEST_GROUP = 512 << 20
_ROWS = 256


class ParquetRows:
    """A table whose rows are read by their group; see `ConversationFile`."""

    unit = "row"

    def __init__(self, path: Path, is_held_out: HeldOut) -> None:
        """Read all but the bytes of the pictures.

        Raises:
            InputError: if the table is damaged, has no column with conversations, or groups of rows that are too large.
            OSError: if the file cannot be read.
        """
        self.path = path
        try:
            with pq.ParquetFile(path) as table:
                self._columns = _columns(table, path)
                groups = [table.metadata.row_group(place) for place in range(table.num_row_groups)]
                largest = max((group.total_byte_size for group in groups), default=0)
                if largest > _LARGEST_GROUP:
                    raise InputError(
                        f"{path} has a group of rows of {largest:,} bytes, which would be read for each sample; write "
                        "it with row_group_size=100"
                    )
                self._starts = np.cumsum([0, *(group.num_rows for group in groups)])
                held_out = bytearray()
                for batch in table.iter_batches(_ROWS, columns=_without_bytes(table, self._columns)):
                    held_out += bytes(is_held_out(_key(row)) for row in batch.to_pylist())
        except pa.ArrowException as error:
            raise _damaged(path, error) from None
        self.held_out = np.frombuffer(held_out, np.bool_)

    def __len__(self) -> int:
        return len(self.held_out)

    def read(self, index: int) -> dict[str, Any]:
        """See `ConversationFile.read`."""
        group = int(np.searchsorted(self._starts, index, side="right")) - 1
        rows = _group(str(self.path), group, tuple(self._columns))
        return rows.slice(index - int(self._starts[group]), 1).to_pylist()[0]

    def number(self, index: int) -> int:
        """The number of a row."""
        return index + 1


def _columns(table: Any, path: Path) -> list[str]:
    names = [name for name in (*CONVERSATION_KEYS, *IMAGE_KEYS) if name in table.schema_arrow.names]
    if not set(names) & set(CONVERSATION_KEYS):
        raise InputError(
            f"{path} has the columns {', '.join(table.schema_arrow.names)}, none of which is "
            f"{' or '.join(CONVERSATION_KEYS)}; rename one"
        )
    return names


def _without_bytes(table: Any, columns: list[str]) -> list[str]:
    """The parts of columns that are no bytes of files."""
    found = []
    for place in range(len(table.schema)):
        part = table.schema.column(place)
        is_text = part.physical_type != "BYTE_ARRAY" or part.logical_type.type in ("STRING", "JSON")
        if part.path.partition(".")[0] in columns and is_text:
            found.append(part.path)
    return found


def _key(row: dict[str, Any]) -> bytes:
    return split_key(row, json.dumps(row, sort_keys=True, default=str).encode())


# neighbours in a shuffled order are rarely in one group, those of a batch that is read again are
@lru_cache(maxsize=2)
def _group(path: str, group: int, columns: tuple[str, ...]) -> pa.Table:
    try:
        with pq.ParquetFile(path) as table:
            return table.read_row_group(group, columns=list(columns))
    except (OSError, pa.ArrowException) as error:
        raise _damaged(Path(path), error) from None


def _damaged(path: Path, error: Exception) -> InputError:
    return InputError(f"{path} is not a Parquet file that can be read ({str(error).splitlines()[0]}); copy it again")
