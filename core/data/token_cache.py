"""Token ids of documents, made once and kept on disk in the user's cache, for all stages, runs and processes.

A folder is named by a digest of the documents, of the tokenizer and of what stands between documents:

ids.npy      the ids of all documents, one behind the other; int32, read by mapping the file into memory
starts.npy   where each document begins among them, and the end of the last; int64
hashes.npy   a hash of each text, which decides its split; uint64
SHA256SUMS   digests of these, compared when a process opens them
"""

import fcntl
import hashlib
import math
import shutil
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int32, Int64, UInt64
from numpy import ndarray

from lab.core.errors import RunError
from lab.core.native.cache import user_cache
from lab.core.runs.atomic_files import folder_atomically
from lab.core.runs.sums import SUMS, check_files, write_sums
from lab.core.streams import say
from lab.core.tokenizer import Fingerprinted, Tokenizer

# Letters: t tokens of all documents, n documents, m = n + 1.

# raised when what is written changes
_VERSION = 2
# between documents, where the tokenizer has no end of text
_BREAK = "\n\n"


class TokenStore:
    """The ids of some documents; it can be pickled: another process maps the same files."""

    def __init__(self, folder: Path | None, arrays: Sequence[ndarray] = ()) -> None:
        """Read what is in a folder; without one, hold arrays.

        Raises:
            OSError: if the folder or a file is not there.
            ValueError: if a file is damaged.
        """
        self._folder, self._arrays = folder, tuple(arrays)
        sizes = len(self.ids), len(self.starts), len(self.hashes)
        if sizes[1] != sizes[2] + 1 or self.starts[-1] != sizes[0]:
            raise ValueError(f"{folder} is damaged")

    @property
    def ids(self) -> Int32[ndarray, " t"]:
        """The tokens of all documents; the end of a text, or an empty line, follows each."""
        return self._array(0, "ids")

    @property
    def starts(self) -> Int64[ndarray, " m"]:
        """Where each document begins, and the end of the last."""
        return self._array(1, "starts")

    @property
    def hashes(self) -> UInt64[ndarray, " n"]:
        """The hash of each text."""
        return self._array(2, "hashes")

    def held_out(self, share: float) -> Bool[ndarray, " n"]:
        """Which documents are held out, as `is_held_out` of their texts says."""
        return self.hashes < np.uint64(math.ceil(share * 2.0**64))

    def _array(self, place: int, name: str) -> ndarray:
        return self._arrays[place] if self._folder is None else _mapped(self._folder / f"{name}.npy")


@lru_cache(maxsize=64)
def _mapped(path: Path) -> ndarray:
    return np.load(path, mmap_mode="r", allow_pickle=False)


# what could not be written: made once in a process for both splits and all stages, and only the last one is held
_held: dict[Path, TokenStore] = {}


def token_store(documents: Callable[[], Iterable[str]], digests: Sequence[str], tokenizer: Tokenizer) -> TokenStore:
    """The ids of documents: those on disk, or else newly made ones, which are written there.

    Args:
        documents: all of them from the first on, whenever it is called; not called if their ids are on disk.
        digests: of all that the documents are made of, in their order.
        tokenizer: of the model; with one that has no digest, and where the disk cannot be written, ids stay in memory.

    Raises:
        InputError: if a document cannot be read, or not be written in the tokenizer's words.
    """
    if not isinstance(tokenizer, Fingerprinted):
        return _in_memory(documents(), tokenizer)
    key = hashlib.sha256(repr((_VERSION, tokenizer.digest, tokenizer.eos_id, *digests)).encode()).hexdigest()[:32]
    folder = user_cache() / "tokens" / key
    if folder in _held:
        return _held[folder]
    try:
        return _on_disk(folder, documents, tokenizer)
    except (OSError, RunError) as error:
        say(f"token ids are kept in memory, since {folder.parent} cannot be written: {error}")
    # what was read of the documents for the file is lost with it
    found = _in_memory(documents(), tokenizer)
    _held.clear()
    _held[folder] = found
    return found


def _on_disk(folder: Path, documents: Callable[[], Iterable[str]], tokenizer: Tokenizer) -> TokenStore:
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # another process may be making the same ids
    with _alone(folder.with_suffix(".lock")):
        found = _read(folder)
        if found is None:
            _write(folder, documents(), tokenizer)
            found = _read(folder)
    if found is None:
        raise RunError(f"{folder} cannot be read as it was written")
    return found


def _read(folder: Path) -> TokenStore | None:
    if not folder.exists():
        return None
    try:
        if not (folder / SUMS).is_file():
            raise ValueError(f"{folder} has no {SUMS}")
        check_files(folder, hint="remove the folder", error=RunError)
        return TokenStore(folder)
    except (OSError, ValueError, EOFError, RunError):
        say(f"{folder} is damaged and made again")
        shutil.rmtree(folder, ignore_errors=True)
        _mapped.cache_clear()
        return None


def _write(folder: Path, documents: Iterable[str], tokenizer: Tokenizer) -> None:
    starts, hashes = array("q", [0]), array("Q")
    with folder_atomically(folder) as partial:
        with (partial / "ids.npy").open("w+b") as file:
            _write_header(file, 0)
            for ids, text_hash in _encoded(documents, tokenizer):
                file.write(ids.tobytes())
                starts.append(starts[-1] + len(ids))
                hashes.append(text_hash)
            file.seek(0)
            # as long as the first: numpy leaves room for any length
            _write_header(file, starts[-1])
        np.save(partial / "starts.npy", np.frombuffer(starts, np.int64))
        np.save(partial / "hashes.npy", np.frombuffer(hashes, np.uint64))
        write_sums(partial)


def _write_header(file: object, length: int) -> None:
    header = {"descr": np.dtype(np.int32).str, "fortran_order": False, "shape": (length,)}
    np.lib.format.write_array_header_1_0(file, header)  # type: ignore[arg-type]  # any open file


def _in_memory(documents: Iterable[str], tokenizer: Tokenizer) -> TokenStore:
    parts, hashes = [], array("Q")
    for ids, text_hash in _encoded(documents, tokenizer):
        parts.append(ids)
        hashes.append(text_hash)
    starts = np.cumsum([0, *map(len, parts)])
    ids = np.concatenate([np.empty(0, np.int32), *parts])
    return TokenStore(None, (ids, starts, np.frombuffer(hashes, np.uint64)))


def _encoded(documents: Iterable[str], tokenizer: Tokenizer) -> Iterator[tuple[Int32[ndarray, " _"], int]]:
    for text in documents:
        ids = tokenizer.encode(text if tokenizer.eos_id is not None else f"{text}{_BREAK}")
        if tokenizer.eos_id is not None:
            ids.append(tokenizer.eos_id)
        digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
        yield np.array(ids, dtype=np.int32), int.from_bytes(digest, "big")


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    with open(path, "a") as file:
        # released by the kernel when the file is closed, however the process ends
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
