"""One JSON list of conversations, as LLaVA keeps them."""

import re
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from lab.core.data.conversation_files.record import HeldOut, key_of_json, parse
from lab.core.errors import InputError

_BLOCK = 1 << 20
# an item that is longer has lost its end
_LONGEST_ITEM = 1 << 28
_STRING = rb'"[^"\\]*(?:\\.[^"\\]*)*"'
# a quotation mark alone begins a string that goes on behind the block
_BETWEEN_ITEMS = re.compile(_STRING + rb'|[{}\[\],"]', re.DOTALL)
_IN_ITEM = re.compile(_STRING + rb'|[{}\[\]"]', re.DOTALL)


class JsonList:
    """An indexed list, eight bytes an item; see `ConversationFile`."""

    unit = "item"

    def __init__(self, path: Path, is_held_out: HeldOut) -> None:
        """Find the items.

        Raises:
            InputError: if the list does not end, or something follows it.
            OSError: if the file cannot be read.
        """
        self.path = path
        offsets, held_out = array("q"), bytearray()
        end = 0
        with open(path, "rb") as file:
            for start, content in _items(file, path):
                offsets.append(start)
                held_out.append(is_held_out(key_of_json(content)))
                end = start + len(content)
        offsets.append(end + 1)
        self._offsets = np.frombuffer(offsets, np.int64)
        self.held_out = np.frombuffer(held_out, np.bool_)

    def __len__(self) -> int:
        return len(self.held_out)

    def read(self, index: int) -> dict[str, Any]:
        """See `ConversationFile.read`."""
        start, stop = (int(offset) for offset in self._offsets[index : index + 2])
        with open(self.path, "rb") as file:
            file.seek(start)
            # without the comma
            return parse(file.read(stop - 1 - start))

    def number(self, index: int) -> int:
        """The place of an item in the list."""
        return index + 1


def _items(file: IO[bytes], path: Path) -> Iterator[tuple[int, bytes]]:
    """Start and content of each item of a list, without the comma that ends it."""
    buffer = file.read(_BLOCK)
    # where the buffer, and in it the item, begin; what was searched already
    base, start = 0, buffer.index(b"[") + 1
    place, depth = start, 1
    while True:
        found = (_BETWEEN_ITEMS if depth == 1 else _IN_ITEM).search(buffer, place)
        token = found.group() if found else b""
        if found is None or token == b'"':
            place = found.start() if found else len(buffer)
            buffer, base, place, start = buffer[start:], base + start, place - start, 0
            more = file.read(_BLOCK)
            if not more or len(buffer) > _LONGEST_ITEM:
                raise InputError(f"{path} is a JSON list that does not end, or whose brackets do not match; repair it")
            buffer += more
            continue
        place = found.end()
        if token in (b"{", b"["):
            depth += 1
        elif token in (b"}", b"]"):
            depth -= 1
        if depth == 0 or (depth == 1 and token == b","):
            content = buffer[start : found.start()]
            if content.strip() or depth:
                yield base + start, content
            start = place
        if depth == 0:
            rest = (buffer[place:] + file.read(_BLOCK)).lstrip(b" \t\r")
            if rest.startswith(b"\n") and rest.lstrip().startswith(b"["):
                raise InputError(f'{path} has a list on each line; make each an object: {{"messages": [...]}}')
            if rest.strip():
                raise InputError(f"{path} is a JSON list with something behind its end; remove that")
            return
