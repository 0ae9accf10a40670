"""Provenance of a result: code, versions, machine, threads, seed."""

import os
import platform
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path

from lab.core.runs.slurm import job_label, restart_count

_PACKAGES = (
    "ssm-lab",
    "numpy",
    "scipy",
    "torch",
    "triton",
    "mamba-ssm",
    "causal-conv1d",
    "hydra-core",
    "matplotlib",
    "pyarrow",
)
# folders whose files determine what a run computes
_ROOMS = ("cli", "conf", "core", "experiments")
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def collect(
    *, seeds: Mapping[str, int], backends: Mapping[str, str], products: Mapping[str, str] | None = None
) -> tuple[dict[str, object], str]:
    """Provenance of this process, and the uncommitted changes of its source as a patch (empty if there are none).

    Args:
        seeds: by their keys.
        backends: the implementation of each operator.
        products: what computes the products of linear layers, by dtype; None for a study without such layers.
    """
    source = Path(__file__).resolve().parent.parent
    # an installed copy may lie inside another project's repository
    is_checkout = _git(source, "rev-parse", "--show-toplevel").strip() == str(source)
    commit = _git(source, "rev-parse", "HEAD").strip() if is_checkout else ""
    patch = _git(source, "diff", "HEAD", "--binary") + _new_files(source) if commit else ""
    record: dict[str, object] = {
        "command": " ".join([os.path.basename(sys.argv[0]), *sys.argv[1:]]),
        "commit": commit or None,
        "is_dirty": bool(patch),
        "python": platform.python_version(),
        "versions": {name: version for name in _PACKAGES if (version := installed_version(name)) is not None},
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "threads": {name: os.environ.get(name) for name in _THREAD_VARIABLES},
        "seeds": dict(seeds),
        "backends": dict(backends),
    }
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


def _new_files(source: Path) -> str:
    """Untracked source files, as a patch; `git diff` omits them."""
    names = _git(source, "ls-files", "--others", "--exclude-standard", "-z", "--", *_ROOMS).split("\0")
    return "".join(_git(source, "diff", "--no-index", "--binary", os.devnull, name, codes=(1,)) for name in names[:-1])


def _git(folder: Path, *arguments: str, codes: Sequence[int] = (0,)) -> str:
    """Output of git; empty without git or a repository (an installed wheel)."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode in codes else ""
