"""`lab doctor`: what this machine can run, on one screen, and how to install what is missing."""

import os
import platform
import shutil
import sys
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lab.core.resources import usable_cores
from lab.core.runs.provenance import installed_version, processor_name

# mamba-ssm's build looks for a CUDA compiler and a prebuilt wheel unless it is told not to; its Mamba-2 kernels are
# Triton and need neither
_MAMBA = (
    "pip install setuptools packaging ninja wheel einops && MAMBA_SKIP_CUDA_BUILD=TRUE MAMBA_FORCE_BUILD=TRUE "
    "pip install --no-build-isolation --no-deps 'mamba-ssm>=2.3,<2.3.2'"
)
_CONV = (
    "pip install packaging ninja wheel && CAUSAL_CONV1D_FORCE_BUILD=TRUE "
    "pip install --no-build-isolation 'causal-conv1d>=1.4' (needs nvcc)"
)
# wider than any line of the report
_WIDTH = 1000
# dtypes of products
_PRODUCTS = ("float32", "bfloat16")
# mamba-ssm is a peer too, but has its own line
_BENCH_PEERS = ("scikit-learn", "dynamax", "hmmlearn", "pomegranate", "transformers", "fla-core", "einops")


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report.

    Attributes:
        subject: what was checked.
        result: version or state, or what is missing.
        hint: the command that installs it; empty if nothing is missing.
    """

    subject: str
    result: str
    hint: str = ""


def print_report() -> None:
    """Print all findings."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings():
        # as plain text: the brackets of an extra are not markup
        table.add_row(finding.subject, Text(finding.result))
        if finding.hint:
            table.add_row("", Text(f"add it: {finding.hint}", style="dim"))
    # commands are copied whole: a file or pipe has no width
    console = Console(width=None if sys.stdout.isatty() else _WIDTH)
    console.print(table, highlight=False)


def measure_products() -> None:
    """Measure what computes the products of large linear layers fastest, where that is not known yet."""
    if installed_version("torch") is None:
        return
    import torch

    from lab.core.products.cache import recall_or_measure
    from lab.core.products.choice import measured

    threads = usable_cores()
    torch.set_num_threads(threads)
    for name in _PRODUCTS:
        recall_or_measure(getattr(torch, name), threads, measured)


def findings() -> list[Finding]:
    """Everything the report says."""
    threads = ", ".join(
        f"{name}={os.environ.get(name, 'unset')}" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    )
    return [
        Finding("lab", f"{version('ssm-lab')} on Python {platform.python_version()} ({sys.executable})"),
        Finding("processor", f"{processor_name()}, {usable_cores()} cores for this process"),
        Finding("threads", threads),
        *_torch(),
        _package("triton", "GPU kernels cannot run", "pip install triton"),
        _package("mamba-ssm", "state-space models run on the portable path", _MAMBA),
        _package("causal-conv1d", "convolutions run on the portable path", _CONV),
        _compiler(),
        *_decoding_step(),
        *_operators(),
        *_products(),
        _program("Slurm", "sbatch", "jobs run on this machine only", "apt-get install slurm-wlm"),
        _package("hydra-submitit-launcher", "hydra/launcher=slurm_cpu is missing", "pip install -e '.[slurm]'"),
        _bench_peers(),
        _font(),
    ]


def _torch() -> list[Finding]:
    installed = installed_version("torch")
    if installed is None:
        return [Finding("torch", "missing", "pip install 'torch>=2.7,<2.14'")]
    import torch

    if not torch.cuda.is_available():
        build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU"
        return [Finding("torch", f"{installed} ({build} build)"), Finding("devices", "cpu; no CUDA device is visible")]
    names = ", ".join(f"cuda:{i} {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count()))
    return [Finding("torch", f"{installed} (CUDA {torch.version.cuda})"), Finding("devices", f"cpu, {names}")]


def _package(distribution: str, without: str, hint: str) -> Finding:
    installed = installed_version(distribution)
    return Finding(distribution, installed) if installed else Finding(distribution, f"missing: {without}", hint)


def _compiler() -> Finding:
    from lab.core.native.build import find_compiler

    path = find_compiler()
    if path is None:
        return Finding("C++ compiler", "missing: loops that it would build run in torch, slower", "apt-get install g++")
    return Finding("C++ compiler", f"{path}; builds loops at their first use")


def _decoding_step() -> list[Finding]:
    installed = installed_version("torch")
    if installed is None:
        return []
    from lab.core.native.dlpack import tensor_exchange

    if tensor_exchange() is not None:
        return []
    without = f"runs in torch, slower: torch {installed} has no way to hand tensors to C++"
    return [Finding("decoding step", without, "pip install 'torch>=2.10,<2.14'")]


def _operators() -> list[Finding]:
    """The implementation that each operator uses here, and why preferred ones are not available."""
    if installed_version("torch") is None:
        return []
    import torch

    from lab.core.operators.backends import report

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return [
        Finding(
            choice.operator,
            "; ".join([f"{choice.chosen} on {device}", *(f"not {name}: {why}" for name, why in choice.rejected)]),
        )
        for choice in report(device)
    ]


def _products() -> list[Finding]:
    """What computes the products of large linear layers on the CPU, where it was measured."""
    if installed_version("torch") is None:
        return []
    import torch

    from lab.core.products.cache import recall
    from lab.core.products.choice import described

    threads = usable_cores()
    found = []
    unknown = "not measured yet; the first run of a large model does, or `lab doctor --measure`"
    for name in _PRODUCTS:
        table = recall(getattr(torch, name), threads)
        result = unknown if table is None else described(table)
        found.append(Finding(f"{name} products", f"on {threads} threads: {result}"))
    return found


def _program(subject: str, command: str, without: str, hint: str) -> Finding:
    path = shutil.which(command)
    return Finding(subject, path) if path else Finding(subject, f"missing: {without}", hint)


def _bench_peers() -> Finding:
    missing = [name for name in _BENCH_PEERS if installed_version(name) is None]
    if not missing:
        return Finding("bench peers", "all installed")
    return Finding("bench peers", f"missing for `lab bench`: {', '.join(missing)}", "pip install -e '.[bench]'")


def _font() -> Finding:
    if find_spec("matplotlib") is None:
        return Finding("figures", "matplotlib is missing", "pip install 'matplotlib>=3.9'")
    from matplotlib.font_manager import FontProperties, findfont

    return Finding("figures", f"font {os.path.basename(findfont(FontProperties()))}, drawn without a display")
