"""Peak memory of one call in a process of its own: what earlier calls left cannot hide it."""

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

# Allocations from this size on are pages of their own, given back when they are freed: resident memory then follows
# what is alive. glibc would raise the limit with every block that is freed.
_ENVIRONMENT = {"MALLOC_MMAP_THRESHOLD_": "65536"}


def ask_process(module: str, request: Mapping[str, Any]) -> Any:
    """What `python -m module` prints as JSON when it is given `request` as JSON.

    Raises:
        RunError: if it fails; the text is the last thing that it said.
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
        # killed for want of memory, it says nothing
        last = done.stderr.strip().splitlines()[-1:] or [f"ended with code {done.returncode}"]
        raise RunError(last[0])
    return json.loads(done.stdout)


def peak_of(call: Callable[[], Sequence[Tensor]], device: str) -> tuple[Sequence[Tensor], int]:
    """What a call returns, and by how much memory rose above what was in use before, at its highest."""
    gc.collect()
    if device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        outputs = call()
        torch.cuda.synchronize()
        return outputs, torch.cuda.max_memory_allocated() - before
    # 5 sets the highest resident size back to the present one (proc(5))
    Path("/proc/self/clear_refs").write_text("5")
    before = _resident("VmRSS")
    outputs = call()
    return outputs, _resident("VmHWM") - before


def size_of(tensors: Sequence[Tensor]) -> int:
    """Bytes of all tensors."""
    return sum(tensor.nbytes for tensor in tensors)


def _resident(key: str) -> int:
    """Bytes that Linux counts for this process: VmRSS now, VmHWM at the highest."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {key}")
