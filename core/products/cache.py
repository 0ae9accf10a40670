"""Tables of implementations on disk: a machine measures once.

The file's name holds the dtype, the number of threads and a digest of all that the times depend on: processor, torch
and its libraries, the project's loops. Processes that start together wait for the one that measures, and use its table.
"""

import fcntl
import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from lab.core.errors import RunError
from lab.core.native.build import library_name, processor_features
from lab.core.native.cache import user_cache
from lab.core.products import native, packed
from lab.core.products.choice import CELLS, BusyError, Table, only
from lab.core.products.implementations import IMPLEMENTATIONS, TORCH
from lab.core.runs.atomic_files import write_atomically
from lab.core.runs.json_files import json_object_or_none
from lab.core.runs.provenance import processor_name
from lab.core.streams import say

# raised when what is measured, or how it is chosen, changes
_VERSION = 4


def recall(dtype: torch.dtype, threads: int) -> Table | None:
    """The table on disk; None if there is none that can be used here. Nothing is measured or built."""
    return _read(_path(dtype, threads))


def recall_or_measure(dtype: torch.dtype, threads: int, measure: Callable[[torch.dtype], Table]) -> Table:
    """The table on disk, or else one that is measured and written there.

    On a machine that is too busy for a measurement it is torch's throughout, which is said and not written.
    """
    try:
        return _recalled_or_measured(dtype, threads, measure)
    except BusyError:
        say(
            "products: torch computes all of them here, since this machine is too busy to find out what is fastest; "
            "`lab doctor --measure` does that when it is at rest"
        )
        return only(TORCH)


def _recalled_or_measured(dtype: torch.dtype, threads: int, measure: Callable[[torch.dtype], Table]) -> Table:
    path = _path(dtype, threads)
    table = _usable(path, dtype)
    if table is not None:
        return table
    try:
        with _alone(path):
            # another process may have measured meanwhile
            table = _usable(path, dtype)
            if table is None:
                table = measure(dtype)
                _write(path, table)
    except (OSError, RunError):
        # a home that cannot be written: this process alone knows
        pass
    return measure(dtype) if table is None else table


def _path(dtype: torch.dtype, threads: int) -> Path:
    facts = (
        _VERSION,
        processor_name(),
        processor_features(),
        torch.__version__,
        torch.__config__.show(),
        *(library_name(each.SOURCE, "-fopenmp") for each in (native, packed)),
    )
    digest = hashlib.sha256(repr(facts).encode()).hexdigest()[:16]
    return user_cache() / "products" / f"{str(dtype).removeprefix('torch.')}-threads-{threads}-{digest}.json"


def _read(path: Path) -> Table | None:
    """A table; None if the file is absent or damaged."""
    content = json_object_or_none(path) if path.exists() else None
    if content is None or content.keys() != {cell.name for cell in CELLS}:
        return None
    table = {}
    for cell in CELLS:
        implementation = IMPLEMENTATIONS.get(str(content[cell.name]))
        if implementation is None or not cell.may_use(implementation):
            return None
        table[cell] = implementation
    return table


def _write(path: Path, table: Table) -> None:
    content = {cell.name: table[cell].name for cell in CELLS}
    write_atomically(path, json.dumps(content, indent=2) + "\n")


def _usable(path: Path, dtype: torch.dtype) -> Table | None:
    """A table of implementations that all run here."""
    table = _read(path)
    return table if table is not None and runs_here(table, dtype) else None


def runs_here(table: Table, dtype: torch.dtype) -> bool:
    """Whether all implementations of a table can run on this machine's CPU; builds those that are built."""
    return all(each.why_not(torch.device("cpu"), dtype) is None for each in set(table.values()))


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """While no other process of this machine measures, which would also disturb the times."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.parent / "lock", "a") as file:
        # released by the kernel when the file is closed, however the process ends
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
