"""Peak memory of one call in a separate process, unaffected by memory left from earlier calls."""

import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lab.core.errors import RunError

# Allocations of at least this size get separate pages, returned when freed, so that resident memory follows live
# memory. By default, glibc raises the limit whenever a block is freed.
_ENVIRONMENT = {"MALLOC_MMAP_THRESHOLD_": "65536"}


def ask_process(module: str, request: Mapping[str, Any]) -> Any:
    """Run `python -m module` with `request` as JSON, and return the JSON that it prints.

    Raises:
        RunError: if it fails, with its last line of output.
    """
    done = subprocess.run(
        [sys.executable, "-m", module, json.dumps(request)],
        env=os.environ | _ENVIRONMENT,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    if done.returncode:
        # a process killed for lack of memory prints nothing
        last = done.stderr.strip().splitlines()[-1:] or [f"ended with code {done.returncode}"]
        raise RunError(last[0])
    return json.loads(done.stdout)


def peak_of(call: Callable[[], Sequence[Tensor]], device: str) -> tuple[Sequence[Tensor], int]:
    """The result of a call, and the peak of its memory above what was in use before."""
    gc.collect()
    if device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        outputs = call()
        torch.cuda.synchronize()
        return outputs, torch.cuda.max_memory_allocated() - before
    # 5 resets the peak resident size to the current one (proc(5))
    Path("/proc/self/clear_refs").write_text("5")
    before = _resident("VmRSS")
    outputs = call()
    return outputs, _resident("VmHWM") - before


def size_of(tensors: Sequence[Tensor]) -> int:
    """Bytes of all tensors."""
    return sum(tensor.nbytes for tensor in tensors)


def resident_bytes() -> int:
    """Memory that this process holds now (Linux)."""
    return _resident("VmRSS")


def _resident(key: str) -> int:
    """Memory of this process in bytes, from Linux: VmRSS is current, VmHWM the peak."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {key}")
