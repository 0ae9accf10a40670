"""Reading arrays where they are, once, on all threads: what a step that reads them is compared with."""

import ctypes
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lab.core.native.build import load_native
from lab.experiments.bench.harness import Candidate

_UNIT = "nothing to compare"


def new_array(num_bytes: int) -> Tensor:
    """An array in large pages, which each thread has written a part of."""
    library = load_native("machine_peak.cpp").library
    numbers = torch.empty(num_bytes // 4)
    if library is not None:
        spread = library.want_pages
        spread.restype, spread.argtypes = None, [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64]
        spread(numbers.data_ptr(), numbers.numel(), torch.get_num_threads())
    return numbers


def streaming(name: str, arrays: Sequence[Tensor]) -> Candidate | None:
    """Reading contiguous arrays once; None without a compiler."""
    run = reader(arrays)
    if run is None:
        return None
    return Candidate(name=name, run=run, difference=lambda _: 0.0, tolerance=0.0, unit=_UNIT)


def reader(arrays: Sequence[Tensor]) -> Callable[[], None] | None:
    """Reads the arrays, whose memory it keeps; None without a compiler."""
    library = load_native("machine_peak.cpp").library
    if library is None:
        return None
    assert all(array.is_contiguous() for array in arrays), "as they lie in memory"
    threads, kept = torch.get_num_threads(), tuple(arrays)
    addresses = (ctypes.c_void_p * len(kept))(*(array.data_ptr() for array in kept))
    sizes = (ctypes.c_int64 * len(kept))(*(array.nbytes for array in kept))
    read = library.read_once
    read.restype = ctypes.c_bool
    read.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64]

    def run() -> None:
        assert read(addresses, sizes, len(kept), threads), "threads could be started before"

    return run
