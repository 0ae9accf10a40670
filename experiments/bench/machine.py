"""One processor core for everything that is timed, and a description of the machine that was timed."""

import importlib
import os
import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import util
from typing import Any

from lab.core.provenance import installed_version, processor_name

# Read when numpy, torch and jax are loaded, hence set before.
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

    The core makes it certain: a library that ignores its setting still gets no second one. Where the operating system
    cannot bind a process to a core the settings have to do. Both are restored at the end.
    """
    earlier = {name: os.environ.get(name) for name in ONE_THREAD}
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    os.environ.update(ONE_THREAD)
    if cores:
        # the last one: interrupts and other people's single-threaded jobs tend to sit on the first
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
def _blas_limit() -> Iterator[None]:
    # for a numpy that was loaded, with its threads, before `one_core`
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
    return {
        "processor": processor_name(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: version for name in distributions if (version := installed_version(name)) is not None},
        "threads": threads(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def threads() -> dict[str, Any]:
    """How many cores this process may use, and how many threads each numerical library found in it says it uses."""
    found: dict[str, Any] = {
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    }
    control = load_optional("threadpoolctl")
    if control is not None:
        for pool in control.threadpool_info():
            name = f"{pool['internal_api']} {pool['version']}" if pool["version"] else pool["internal_api"]
            found[name] = max(pool["num_threads"], found.get(name, 0))
    return found
