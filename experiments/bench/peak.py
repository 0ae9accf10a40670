"""Measures what the machine can do: multiply-adds, streaming, and the products of the libraries that are here."""

import ctypes
import math
import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import linear

from lab.core.native.build import load_native
from lab.core.runs.random_streams import Seeds
from lab.experiments.bench.accuracy import largest_difference
from lab.experiments.bench.machine import event_clock, load_optional
from lab.experiments.bench.rates import LibraryProduct, MachinePeak

# all together take a few seconds
_FMA_S = 0.1
_STREAM_ROUNDS = 5
_PRODUCT_S = 0.4
_PRODUCT_SIZE = 2048
_QUICK_SIZE = 256
# Far beyond the caches that one machine's threads share, and no more than this part of the memory.
_STREAM_BYTES = 2**30
_MEMORY_SHARE = 16
_QUICK_STREAM_BYTES = 2**24
# largest difference of a product from torch's, as a fraction of the largest entry: rounding of sums of 2,048 terms
_TOLERANCE = 1e-4


def measure_peak(*, quick: bool, device: str = "cpu", dtype: torch.dtype = torch.float32) -> MachinePeak:
    """The rates of the processor on as many threads as torch uses, or of a CUDA device in `dtype`.

    Without a compiler, operations and bytes per second are missing, and `why_not` says so. A CUDA device's peak is the
    rate of torch's own product.
    """
    size = _QUICK_SIZE if quick else _PRODUCT_SIZE
    if device == "cuda":
        return _cuda_peak(2 * size, dtype)
    threads = torch.get_num_threads()
    products = _products(size)
    built = load_native("machine_peak.cpp")
    if built.library is None:
        return MachinePeak(threads=threads, products=products, why_not=built.why_not or "")
    seconds = _FMA_S / 10 if quick else _FMA_S
    before = _multiply_add_rates(built.library, threads, seconds)
    read, update = ctypes.c_double(), ctypes.c_double()
    num_bytes = _QUICK_STREAM_BYTES if quick else min(_STREAM_BYTES, _memory_bytes() // _MEMORY_SHARE)
    streaming_rates = built.library.streaming_rates
    streaming_rates.restype = ctypes.c_bool
    streaming_rates.argtypes = (*[ctypes.c_int64] * 3, *[ctypes.POINTER(ctypes.c_double)] * 2)
    is_streamed = streaming_rates(num_bytes, threads, _STREAM_ROUNDS, ctypes.byref(read), ctypes.byref(update))
    # before and after: another process may have held a core during one of them
    after = _multiply_add_rates(built.library, threads, seconds)
    rates = {name: max(before[name], after[name]) for name in before}
    if not is_streamed or not all(rates.values()):
        return MachinePeak(threads=threads, products=products, why_not=f"no memory or threads for {threads} threads")
    return MachinePeak(
        threads=threads,
        flops_per_s=rates,
        read_bytes_per_s=read.value,
        update_bytes_per_s=update.value,
        streamed_bytes=num_bytes,
        products=products,
    )


def _multiply_add_rates(library: ctypes.CDLL, threads: int, seconds: float) -> dict[str, float]:
    """Operations per second by dtype; 0 if the threads could not be started."""
    rates = {}
    for name in ("float32", "float64"):
        function = library[f"multiply_add_rate_{name}"]
        function.restype, function.argtypes = ctypes.c_double, (ctypes.c_int64, ctypes.c_double)
        rates[name] = float(function(threads, seconds))
    return rates


def _memory_bytes() -> int:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        # not every system says; this is what an array of full size needs
        return _STREAM_BYTES * _MEMORY_SHARE


def _products(size: int) -> list[LibraryProduct]:
    """x w' of square matrices through every library that is here."""
    generator = Seeds(0).torch("peak", size)
    x, w = (torch.randn(size, size, generator=generator) for _ in range(2))
    left, right, out = x.numpy(), w.numpy(), np.empty((size, size), dtype=np.float32)
    libraries: dict[str, Callable[[], Any]] = {
        "torch.nn.functional.linear": lambda: linear(x, w),
        "oneDNN in torch": lambda: torch.ops.mkldnn._linear_pointwise(x, w, None, "none", [], ""),
        "numpy": lambda: np.matmul(left, right.T, out=out),
    }
    exact = x[:4].double() @ w.double().T
    with torch.no_grad(), _all_blas_threads():
        return [_product(name, run, exact) for name, run in libraries.items()]


def _product(name: str, run: Callable[[], Any], exact: Tensor) -> LibraryProduct:
    """One library: its first rows compared with float64, then the best time of a few calls."""
    size = exact.shape[1]
    try:
        found = torch.as_tensor(run()[: len(exact)])
    except (AttributeError, RuntimeError) as error:
        # this build of torch has no such operator, or not for this processor
        return LibraryProduct(name=name, size=size, note=f"not here: {str(error).splitlines()[0]}")
    if not largest_difference([found], [exact]) <= _TOLERANCE:
        return LibraryProduct(name=name, size=size, note="another result")
    best_s, now = math.inf, time.perf_counter()
    end = now + _PRODUCT_S
    while now < end:
        started = time.perf_counter()
        run()
        now = time.perf_counter()
        best_s = min(best_s, now - started)
    return LibraryProduct(name=name, size=size, flops_per_s=2.0 * size**3 / best_s)


def _all_blas_threads() -> AbstractContextManager[Any]:
    # numpy's OpenBLAS read its number of threads when it was loaded, perhaps before all cores were asked for
    control = load_optional("threadpoolctl")
    threads = torch.get_num_threads()
    return nullcontext() if control is None else control.threadpool_limits(limits=threads, user_api="blas")


def _cuda_peak(size: int, dtype: torch.dtype) -> MachinePeak:
    generator = Seeds(0).torch("peak", size)
    left, right = (torch.randn(size, size, generator=generator).to("cuda", dtype) for _ in range(2))
    numbers = torch.ones(_STREAM_BYTES // 4, device="cuda")

    def best_s(run: Callable[[], Any]) -> float:
        return min(event_clock(run, 3) / 3 for _ in range(5))

    rate = 2.0 * size**3 / best_s(lambda: torch.mm(left, right))
    return MachinePeak(
        threads=1,
        basis="matrix product",
        flops_per_s={str(dtype).removeprefix("torch."): rate},
        read_bytes_per_s=numbers.nbytes / best_s(numbers.sum),
        update_bytes_per_s=2 * numbers.nbytes / best_s(lambda: numbers.mul_(1.0)),
        streamed_bytes=numbers.nbytes,
        products=[LibraryProduct(name="torch.mm", size=size, flops_per_s=rate)],
    )
