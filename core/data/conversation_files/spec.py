"""What every format of files with conversations offers."""

from pathlib import Path
from typing import Any, Protocol

from jaxtyping import Bool
from numpy import ndarray

# Letters: n samples.


class ConversationFile(Protocol):
    """An indexed file; it can be pickled, so that another process can read it.

    Attributes:
        path: of the file.
        unit: what `number` counts, such as `line`.
        held_out: which samples are held out.
    """

    path: Path
    unit: str
    held_out: Bool[ndarray, " n"]

    def __len__(self) -> int: ...

    def read(self, index: int) -> dict[str, Any]:
        """The record of a sample, for `record.said`.

        Raises:
            InputError: if it cannot be read.
        """
        ...

    def number(self, index: int) -> int:
        """The number of a sample in the file, from 1."""
        ...
