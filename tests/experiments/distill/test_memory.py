"""Gradients taken layer by layer need the memory of one layer."""

import ctypes
import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lab.core.mixers.rotary import RotaryConfig
from lab.core.models.decoder import Inputs
from lab.core.models.families import build_random
from lab.core.models.llama.config import LlamaConfig
from lab.core.runs.random_streams import Seeds
from lab.experiments.distill.layer_local import layer_local_backward
from lab.experiments.distill.losses import layer_mse
from lab.experiments.distill.student import StudentConfig, build_student, set_trainable, trainable_names

NUM_LAYERS, NUM_TOKENS = 8, 2048
CPU = torch.device("cpu")
# of glibc's malloc.h
M_MMAP_THRESHOLD = -3


class Distillation:
    """Stage 2 of a decoder of eight layers, on one batch of random tokens."""

    def __init__(self) -> None:
        config = LlamaConfig(
            num_layers=NUM_LAYERS,
            hidden_size=64,
            intermediate_size=64,
            num_heads=4,
            num_kv_heads=2,
            head_dim=16,
            vocab_size=32,
            rms_norm_eps=1e-5,
            rotary=RotaryConfig(theta=1e4, max_length=NUM_TOKENS),
        )
        generator = torch.Generator().manual_seed(0)
        self.teacher = build_random(config, device=CPU, dtype=torch.float64, generator=generator, std=0.125)
        self.teacher.requires_grad_(False)
        student = build_student(self.teacher, StudentConfig(), seeds=Seeds(0))
        self.trained = set_trainable(student, trainable_names(student, 2, train_decay=True))
        self.mixers = {layer.index: layer.layer.mixer for layer in student.mixer_layers()}
        self.tokens = torch.randint(32, (2, NUM_TOKENS), generator=generator)

    def local(self) -> None:
        """Backward inside each layer."""
        layer_local_backward(
            self.teacher,
            Inputs(tokens=self.tokens),
            self.mixers,
            scale=1000 / NUM_LAYERS,
            mask_of=lambda num_tokens: None,
            autocast=nullcontext,
        )

    def summed(self) -> None:
        """One backward of the sum, behind the last layer."""
        losses: list[Tensor] = []

        def add(index: int, u: Tensor, head_outputs: Tensor) -> bool:
            with torch.enable_grad():
                losses.append(layer_mse(self.mixers[index].head_outputs(u), head_outputs, mask=None))
            return True

        with torch.no_grad():
            self.teacher.observed(Inputs(tokens=self.tokens), add)
        (1000 * torch.stack(losses).mean()).backward()

    def two(self) -> None:
        """Backward inside the first two layers alone."""
        whole = self.mixers
        self.mixers = {index: whole[index] for index in range(2)}
        self.local()
        self.mixers = whole

    def gradients(self) -> list[Tensor]:
        found = [parameter.grad.clone() for parameter in self.trained.values() if parameter.grad is not None]
        assert len(found) == len(self.trained)
        for parameter in self.trained.values():
            parameter.grad = None
        return found


def status(key: str) -> int:
    """A size of this process in bytes, as the kernel counts it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(key))


def give_back_freed_memory() -> None:
    """Hand what is free to the kernel, and large blocks as soon as they are freed: resident memory is what is used."""
    libc = ctypes.CDLL(None)
    libc.mallopt(M_MMAP_THRESHOLD, 64 * 1024)
    libc.malloc_trim(0)


def peak_bytes(work: Callable[[], None]) -> int:
    """How far the resident memory of a process of its own rises while it works."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            give_back_freed_memory()
            # what the process has held at most is counted from here on
            Path("/proc/self/clear_refs").write_text("5")
            before = status("VmRSS")
            work()
            os.write(writing, struct.pack("q", status("VmHWM") - before))
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    found: int = struct.unpack("q", os.read(reading, 8))[0]
    return found


def peaks(*names: str) -> list[int]:
    """`peak_bytes` of some methods of `Distillation`, in an interpreter of their own.

    One that has run hundreds of tests keeps freed memory in pieces, which a child would fill first or not.
    """
    done = subprocess.run([sys.executable, __file__, *names], capture_output=True, text=True, timeout=300, check=True)
    found: list[int] = json.loads(done.stdout)
    return found


@pytest.mark.slow
def test_layer_by_layer_needs_a_third_of_the_memory_and_gives_the_same_gradients() -> None:
    distillation = Distillation()
    distillation.local()
    ours = distillation.gradients()
    distillation.summed()
    for name, gradient, expected in zip(distillation.trained, ours, distillation.gradients(), strict=True):
        assert float((gradient - expected).norm()) <= 1e-10 * float(expected.norm()), name
    local, summed = peaks("local", "summed")
    print(f"layer by layer {local / 2**20:.1f} MiB, summed {summed / 2**20:.1f} MiB, ratio {local / summed:.3f}")
    assert local <= summed / 3, f"{local / 2**20:.0f} MiB against {summed / 2**20:.0f} MiB"


@pytest.mark.slow
def test_the_memory_of_one_layer_does_not_grow_with_their_number() -> None:
    everything, two = peaks("local", "two")
    assert everything <= 1.5 * two, f"{everything / 2**20:.0f} MiB against {two / 2**20:.0f} MiB"


def test_the_memory_of_a_process_can_be_measured() -> None:
    size = 64 * 2**20
    assert peak_bytes(lambda: None) < size / 4
    assert size <= peak_bytes(partial(torch.ones, size // 8, dtype=torch.float64)) < 1.5 * size


if __name__ == "__main__":
    made = Distillation()
    print(json.dumps([peak_bytes(getattr(made, name)) for name in sys.argv[1:]]))
