"""Load teachers in several processes, which torchrun starts: `held_by_a_process.py PLACE OUT FOLDER…`.

A small one with random weights comes first. Each process writes, for each teacher, the peak of its memory above
what it held before, and a digest of the weights of all processes together. PLACE is `meta`, where each process reads
its parts, or `cpu`, where it reads everything before it keeps them.
"""

import ctypes
import json
import sys
from pathlib import Path

import torch

from lab.core.mixers.rotary import RotaryConfig
from lab.core.models.families import TeacherConfig
from lab.core.models.folder import Precision
from lab.core.models.llama.config import LlamaConfig
from lab.core.parallel.config import Frozen, ParallelConfig, Strategy
from lab.core.parallel.launched import launched
from lab.core.parallel.link import Link
from lab.core.parallel.processes import joined, layout
from lab.experiments.distill.teacher import digest, open_teacher

RANDOM = "random"
# of glibc's malloc.h
M_MMAP_THRESHOLD = -3


def teacher_of(name: str) -> TeacherConfig:
    """Of a folder, or with random weights."""
    if name != RANDOM:
        return TeacherConfig(path=name, precision=Precision.float32)
    architecture = LlamaConfig(
        num_layers=2,
        hidden_size=16,
        intermediate_size=24,
        num_heads=2,
        num_kv_heads=1,
        head_dim=8,
        vocab_size=33,
        rms_norm_eps=1e-5,
        rotary=RotaryConfig(theta=1e4, max_length=64),
    )
    return TeacherConfig(precision=Precision.bfloat16, llama=architecture)  # type: ignore[call-arg]


def status(key: str) -> int:
    """A size of this process in bytes, as the kernel counts it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(key))


def main(place: str, out: Path, names: list[str]) -> None:
    """Load all of them, one after the other."""
    libc = ctypes.CDLL(None)
    # what is freed is the kernel's at once
    libc.mallopt(M_MMAP_THRESHOLD, 64 * 1024)
    here = launched()
    assert here is not None
    link = Link(here)
    config = ParallelConfig(strategy=Strategy.fsdp, frozen=Frozen.sharded)
    found = {}
    with joined(link), layout(config, torch.device("cpu")) as over_processes:
        for name in (RANDOM, *names):
            opened = open_teacher(teacher_of(name), device=torch.device(place), seed=0)
            libc.malloc_trim(0)
            Path("/proc/self/clear_refs").write_text("5")
            before = status("VmRSS")
            teacher = opened.model
            over_processes.place_teacher(teacher, opened.fill if place == "meta" else None)
            found[name] = [status("VmHWM") - before, digest(teacher)]
            over_processes.ranks.gathered(None)
    link.leave()
    (out / f"{place}-{here.rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
