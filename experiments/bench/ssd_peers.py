"""Peer implementations of the SSD operator with a common signature, and how to install missing ones."""

import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import util
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor
from torch.nn.functional import pad

from lab.experiments.bench.harness import Missing
from lab.experiments.bench.machine import load_optional
from lab.experiments.bench.ssd_exact import Inputs
from lab.experiments.bench.ssd_problem import Operator

TRANSFORMERS = "transformers, torch path"
MINIMAL = "mamba-ssm, ssd_minimal_discrete"
LINEAR_ATTENTION = "flash-linear-attention, naive chunks"
KERNELS = "mamba-ssm, Triton kernels"

BENCH_HINT = "pip install 'ssm-lab[bench]'"
# by default its build wants a CUDA compiler and a matching wheel; what is called here needs neither
MAMBA_HINT = (
    "pip install packaging ninja wheel triton einops && MAMBA_SKIP_CUDA_BUILD=TRUE MAMBA_FORCE_BUILD=TRUE "
    "pip install --no-build-isolation --no-deps 'mamba-ssm>=2.3,<2.3.2'"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A peer implementation.

    Attributes:
        name: its name in tables.
        operator: returns the output of all tokens.
        chunk_sizes: sizes to try; the best is used.
        has_linear_backward: whether its backward takes linear time in the length, so that it can be timed.
    """

    name: str
    operator: Operator
    chunk_sizes: tuple[int, ...] = (32, 64, 128, 256)
    has_linear_backward: bool = True


def _transformers() -> Peer | Missing:
    module = load_optional("transformers.models.mamba2.modeling_mamba2")
    # earlier releases have it inside the model class
    if module is None or not hasattr(module, "mamba2_chunk_scan"):
        return Missing(TRANSFORMERS, BENCH_HINT)
    # the plain name is bound to mamba-ssm's kernels if those can be imported
    scan = module.mamba2_chunk_scan.__wrapped__
    return Peer(name=TRANSFORMERS, operator=lambda inputs, chunk_size: scan(*inputs, chunk_size=chunk_size))


def _ssd_minimal() -> Peer | Missing:
    module = load_mamba_ssm("mamba_ssm.modules.ssd_minimal")
    if module is None:
        return Missing(MINIMAL, MAMBA_HINT)

    def operator(inputs: Inputs, chunk_size: int | None) -> Tensor:
        assert chunk_size is not None, "it has no default chunk size"
        # it needs one dtype for all inputs, and sums of log decays need float32
        x, dt, A, B, C = (tensor.float() for tensor in inputs)
        num_tokens = x.shape[1]
        values, log_decay = x * dt[..., None], A * dt
        # it only supports whole chunks; padding with step size zero changes nothing
        missing = -num_tokens % chunk_size
        if missing:
            values, B, C = (pad(tensor, (0, 0, 0, 0, 0, missing)) for tensor in (values, B, C))
            log_decay = pad(log_decay, (0, 0, 0, missing))
        y, _ = module.ssd_minimal_discrete(values, log_decay, B, C, chunk_size)
        return y[:, :num_tokens]

    return Peer(name=MINIMAL, operator=operator)


def _flash_linear_attention() -> Peer | Missing:
    package = util.find_spec("fla")
    if package is None or package.submodule_search_locations is None or util.find_spec("einops") is None:
        return Missing(LINEAR_ATTENTION, BENCH_HINT)
    # load the file by path: importing the package loads all its Triton kernels, which takes 15 s
    path = Path(package.submodule_search_locations[0]) / "ops" / "simple_gla" / "naive.py"
    spec = util.spec_from_file_location("fla_naive_simple_gla", path)
    if not path.exists() or spec is None or spec.loader is None:
        return Missing(LINEAR_ATTENTION, BENCH_HINT)
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def operator(inputs: Inputs, chunk_size: int | None) -> Tensor:
        x, dt, A, B, C = inputs
        y, _ = module.naive_chunk_simple_gla(C, B, x * dt[..., None], dt * A, chunk_size=chunk_size, scale=1.0)
        return y

    # it writes each chunk's output into one tensor, whose full gradient autograd copies for every chunk
    return Peer(name=LINEAR_ATTENTION, operator=operator, has_linear_backward=False)


def _mamba_kernels() -> Peer | Missing:
    module = load_mamba_ssm("mamba_ssm.ops.triton.ssd_combined")
    if module is None:
        return Missing(KERNELS, MAMBA_HINT)
    scan = module.mamba_chunk_scan_combined
    return Peer(
        name=KERNELS,
        operator=lambda inputs, chunk_size: scan(*inputs, chunk_size=chunk_size),
        chunk_sizes=(64, 128, 256),
    )


# by name, so that each can be loaded without the others
PEERS: dict[str, Callable[[], Peer | Missing]] = {
    TRANSFORMERS: _transformers,
    MINIMAL: _ssd_minimal,
    LINEAR_ATTENTION: _flash_linear_attention,
    KERNELS: _mamba_kernels,
}


def peer_names(device: str) -> list[str]:
    """Names of the peers that can run on `device`, installed or not."""
    return [name for name in PEERS if name != KERNELS or device == "cuda"]


def load_mamba_ssm(module: str) -> Any:
    """A module of mamba-ssm, or None if it, Triton or einops is not installed.

    The package first imports a compiled kernel of Mamba-1. If that was not built, a temporary empty package of the same
    name makes its modules importable.
    """
    package = util.find_spec("mamba_ssm")
    if package is None or any(util.find_spec(name) is None for name in ("triton", "einops")):
        return None
    stand_in = ModuleType("mamba_ssm")
    stand_in.__path__ = list(package.submodule_search_locations or [])
    if util.find_spec("selective_scan_cuda") is None:
        sys.modules.setdefault("mamba_ssm", stand_in)
    try:
        return importlib.import_module(module)
    finally:
        if sys.modules.get("mamba_ssm") is stand_in:
            del sys.modules["mamba_ssm"]
