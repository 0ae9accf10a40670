"""The header of a GGUF file, parsed once: its keys with the whole vocabulary, and which tensors are where.

The reader of the package gguf makes an array of each token and each merge: seconds, and 160 MB for 49,152 tokens. What
transformers makes of a file, its configuration, its tokenizer and its weights, begins with that each time.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

# the reader of the last file, by that file's version
_kept: dict[tuple[int, ...], Any] = {}


def version_of(path: str | os.PathLike[str]) -> tuple[int, ...]:
    """What tells a file from what stood there before: device, number, size, and time of the last change.

    Raises:
        OSError: if it is gone.
    """
    status = Path(path).stat()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


@contextmanager
def parsed_once(gguf: Any) -> Iterator[None]:
    """Context in which `gguf.GGUFReader` of the file that was parsed last, unchanged, is the one of before.

    Tables of tensor names, which transformers asks for once for each module of a model, are made once too.

    Args:
        gguf: the imported package; it is as before afterwards.
    """
    reader, name_map = gguf.GGUFReader, gguf.get_tensor_name_map

    def read(path: str | os.PathLike[str], mode: str = "r") -> Any:
        if mode != "r":
            return reader(path, mode)
        version = version_of(path)
        if version not in _kept:
            _kept.clear()
            _kept[version] = reader(path)
        return _kept[version]

    gguf.GGUFReader, gguf.get_tensor_name_map = read, lru_cache(maxsize=1)(name_map)
    try:
        yield
    finally:
        gguf.GGUFReader, gguf.get_tensor_name_map = reader, name_map


def forget_header() -> None:
    """Give back the memory of what is kept; the file is parsed again when it is read again."""
    _kept.clear()
