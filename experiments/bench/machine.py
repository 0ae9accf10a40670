"""The cores that a benchmark may use, the clock for its device, and a description of the machine that was timed."""

import importlib
import math
import os
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import util
from pathlib import Path
from typing import Any

from lab.core.resources import usable_cores
from lab.core.runs.provenance import installed_version, processor_name

# Read when numpy, torch and jax are imported, hence set before.
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "VECLIB_MAXIMUM_THREADS": "1",
    "NUMBA_NUM_THREADS": "1",
    # XLA's CPU client takes the size of its thread pool from here
    "NPROC": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false",
    "JAX_PLATFORMS": "cpu",
}


@contextmanager
def one_core() -> Iterator[None]:
    """Run the body on a single processor core and tell libraries that load in it to use one thread.

    Binding to the core also covers libraries that ignore the setting. If the operating system cannot bind processes,
    only the settings apply. Both are restored at the end.
    """
    earlier = {name: os.environ.get(name) for name in ONE_THREAD}
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    os.environ.update(ONE_THREAD)
    if cores:
        # the last one: interrupts and single-threaded jobs of others tend to run on the first
        os.sched_setaffinity(0, {max(cores)})
    try:
        with _blas_limit():
            yield
    finally:
        if cores:
            os.sched_setaffinity(0, cores)
        for name, value in earlier.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def every_core() -> Iterator[None]:
    """Run the body with as many torch threads as this process may use cores.

    torch can change its number of threads at any time, so the environment's one thread, which suits everything else, is
    overridden here. Child processes get the number in their environment. Both are restored.
    """
    torch = importlib.import_module("torch")
    earlier, earlier_threads = os.environ.get("OMP_NUM_THREADS"), torch.get_num_threads()
    cores = usable_cores()
    os.environ["OMP_NUM_THREADS"] = str(cores)
    torch.set_num_threads(cores)
    try:
        yield
    finally:
        torch.set_num_threads(earlier_threads)
        if earlier is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = earlier


def busy_seconds() -> float:
    """Processor time of the whole machine, summed over its cores; NaN if unavailable (only Linux reports it)."""
    try:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()
    except OSError:
        return math.nan
    user, nice, system, _, _, interrupts, soft_interrupts, stolen = (int(ticks) for ticks in fields[1:9])
    return (user + nice + system + interrupts + soft_interrupts + stolen) / os.sysconf("SC_CLK_TCK")


def own_seconds() -> float:
    """Processor time of this process and all below it, those that have ended among them; NaN as `busy_seconds`."""
    children: dict[int, list[int]] = {}
    seconds: dict[int, float] = {}
    for place in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = place.read_text().rpartition(")")[2].split()
        except OSError:
            # it has ended meanwhile
            continue
        process = int(place.parent.name)
        children.setdefault(int(fields[1]), []).append(process)
        # its own, and that of the children that it has waited for
        seconds[process] = sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    if os.getpid() not in seconds:
        return math.nan
    total, found = 0.0, [os.getpid()]
    while found:
        process = found.pop()
        total += seconds[process]
        found += children.get(process, [])
    return total


def event_clock(run: Callable[[], Any], calls: int) -> float:
    """Seconds of `calls` consecutive calls on a CUDA device, between two events in its stream.

    The stream is empty before the first event, so a call limited by kernel launches takes as long as the launches, as
    in a model.
    """
    cuda = importlib.import_module("torch").cuda
    started, ended = cuda.Event(enable_timing=True), cuda.Event(enable_timing=True)
    cuda.synchronize()
    started.record()
    for _ in range(calls):
        run()
    ended.record()
    ended.synchronize()
    return float(started.elapsed_time(ended)) / 1e3


@contextmanager
def _blas_limit() -> Iterator[None]:
    # for a numpy that was imported, with its threads, before `one_core`
    control = load_optional("threadpoolctl")
    if control is None:
        yield
    else:
        with control.threadpool_limits(limits=1):
            yield


def load_optional(module: str) -> Any:
    """The module, or None if its distribution is not installed."""
    if util.find_spec(module.partition(".")[0]) is None:
        return None
    return importlib.import_module(module)


def describe(distributions: Sequence[str]) -> dict[str, Any]:
    """The machine, the installed versions of `distributions`, the threads and the date, for the result file."""
    torch = sys.modules.get("torch")
    return {
        "processor": processor_name(),
        "accelerator": torch.cuda.get_device_name() if torch is not None and torch.cuda.is_available() else None,
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: version for name in distributions if (version := installed_version(name)) is not None},
        "threads": threads(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def threads() -> dict[str, Any]:
    """How many cores this process may use, and how many threads each numerical library found in it says it uses."""
    found: dict[str, Any] = {"cores": usable_cores()}
    control = load_optional("threadpoolctl")
    if control is not None:
        for pool in control.threadpool_info():
            name = f"{pool['internal_api']} {pool['version']}" if pool["version"] else pool["internal_api"]
            found[name] = max(pool["num_threads"], found.get(name, 0))
    return found
