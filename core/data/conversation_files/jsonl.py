"""JSON lines, as InternVL keeps conversations: an object a line."""

from array import array
from pathlib import Path
from typing import Any

import numpy as np

from lab.core.data.conversation_files.record import HeldOut, key_of_json, parse

# lines whose numbers are found by counting from a known one
_BLOCK = 256


class JsonLines:
    """An indexed file of lines, eight bytes each; see `ConversationFile`."""

    unit = "line"

    def __init__(self, path: Path, is_held_out: HeldOut) -> None:
        """Find the lines; blank ones are no samples.

        Raises:
            OSError: if the file cannot be read.
        """
        self.path = path
        offsets, held_out, numbers = array("q"), bytearray(), array("q")
        position = 0
        with open(path, "rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    if len(offsets) % _BLOCK == 0:
                        numbers.append(number)
                    offsets.append(position)
                    held_out.append(is_held_out(key_of_json(line)))
                position += len(line)
        self._offsets = np.frombuffer(offsets, np.int64)
        self._numbers = np.frombuffer(numbers, np.int64)
        self.held_out = np.frombuffer(held_out, np.bool_)

    def __len__(self) -> int:
        return len(self._offsets)

    def read(self, index: int) -> dict[str, Any]:
        """See `ConversationFile.read`."""
        with open(self.path, "rb") as file:
            file.seek(self._offsets[index])
            return parse(file.readline())

    def number(self, index: int) -> int:
        """The number of a line: counted from the last one of which it is known."""
        block = index // _BLOCK
        start = int(self._offsets[block * _BLOCK])
        with open(self.path, "rb") as file:
            file.seek(start)
            between = file.read(int(self._offsets[index]) - start)
        return int(self._numbers[block]) + between.count(b"\n")
