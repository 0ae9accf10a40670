"""Provenance of a result: code, versions, machine, threads, seed."""

import os
import platform
import socket
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path

from lab.core.runs.slurm import job_label, restart_count
from lab.core.runs.source_state import source_state

_PACKAGES = (
    "ssm-lab",
    "numpy",
    "scipy",
    "torch",
    "triton",
    "mamba-ssm",
    "causal-conv1d",
    "fla-core",
    "pillow",
    "tokenizers",
    "hydra-core",
    "matplotlib",
    "pyarrow",
)
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
# in the order in which a library looks at them
_BLAS_VARIABLES = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS")
# which of its instructions a library uses is in its hands, but for these
_INSTRUCTION_VARIABLES = (
    "ATEN_CPU_CAPABILITY",
    "DNNL_MAX_CPU_ISA",
    "MKL_CBWR",
    "MKL_ENABLE_INSTRUCTIONS",
    "NPY_DISABLE_CPU_FEATURES",
    "NPY_ENABLE_CPU_FEATURES",
    "ONEDNN_MAX_CPU_ISA",
    "OPENBLAS_CORETYPE",
)
_ARITHMETIC = ("amx", "asimd", "avx", "bf16", "f16c", "fma", "fphp", "i8mm", "sse", "sve")


def collect(
    *,
    seeds: Mapping[str, int],
    backends: Mapping[str, str],
    computed_by: Sequence[str],
    settings: Mapping[str, str],
    products: Mapping[str, str] | None = None,
    compiler: str | None = None,
    processes: Mapping[str, object] | None = None,
    data: Mapping[str, Mapping[str, object]] | None = None,
) -> tuple[dict[str, object], bytes]:
    """Provenance of this process, and the uncommitted changes of its source as a patch (empty if there are none).

    What git does not say is None in the provenance; see `source_state`.

    Args:
        seeds: by their keys.
        backends: the implementation of each operator.
        computed_by: the packages on whose versions the last digits depend.
        settings: what else of this process they depend on, such as a number of threads; variables that name
            instructions are added.
        products: what computes the products of linear layers, by dtype; None for a study without such layers.
        compiler: of the loops, if they are compiled.
        processes: how many work on the run together, and how; None for one.
        data: of each file that samples are made from, by its name: `path`, `bytes` and `digest`; None where a
            configuration holds all data.
    """
    commit, is_dirty, patch = source_state(Path(__file__).resolve().parents[2])
    record: dict[str, object] = {
        "command": " ".join([os.path.basename(sys.argv[0]), *sys.argv[1:]]),
        "commit": commit,
        "is_dirty": is_dirty,
        "python": platform.python_version(),
        "versions": {name: version for name in _PACKAGES if (version := installed_version(name)) is not None},
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "processor": processor_name(),
        "instructions": instructions(),
        "cores": os.cpu_count(),
        "threads": {name: os.environ.get(name) for name in _THREAD_VARIABLES},
        "seeds": dict(seeds),
        "backends": dict(backends),
        "computed_by": list(computed_by),
        "settings": {**settings, **{name: os.environ[name] for name in _INSTRUCTION_VARIABLES if name in os.environ}},
    }
    if compiler is not None:
        record["compiler"] = compiler
    if processes is not None:
        record["processes"] = dict(processes)
    if data is not None:
        record["data"] = {name: dict(content) for name, content in data.items()}
    job = job_label()
    if job is not None:
        record["slurm"] = {"job": job, "restarts": restart_count()}
    if products is not None:
        record["products"] = dict(products)
    return record, patch


def installed_version(distribution: str) -> str | None:
    """The installed version, read without importing the package; None if it is not installed."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def processor_name() -> str:
    """Model name of the processor."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def instructions() -> str:
    """The processor's instructions for arithmetic, by which libraries choose their loops.

    Others come and go with the version of the system.
    """
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    flags = {flag for line in lines if line.startswith(("flags", "Features")) for flag in line.split()}
    return " ".join([platform.machine(), *sorted(flag for flag in flags if flag.startswith(_ARITHMETIC))])


def blas() -> str:
    """The linear algebra library that numpy was built with, and its number of threads."""
    # heavy: only a study that computes needs it
    import numpy as np  # noqa: PLC0415

    found = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    threads = next(
        (os.environ[name] for name in _BLAS_VARIABLES if name in os.environ), f"each of {os.cpu_count()} cores"
    )
    return f"{found['name']} {found['version']}, threads: {threads}"
