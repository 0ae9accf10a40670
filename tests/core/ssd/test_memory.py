"""Peak memory of the SSD operator in a fresh process, above its inputs and outputs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lab.core.native import build

MEASURE = """
import sys, torch
from pathlib import Path
from lab.core.ssd import ssd
from lab.core.ssd.chunked import autograd

def memory(field):
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field)]
    return int(line.split()[1]) * 1024

def peak_of(work):
    Path("/proc/self/clear_refs").write_text("5")
    before = memory("VmRSS")
    result = work()
    return memory("VmHWM") - before, result

torch.set_num_threads(2)
tier, num_tokens, width = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
chosen = {"native": autograd.NATIVE, "torch": autograd.TORCH}[tier]
autograd.choose_tier = lambda device: autograd.TierChoice(chosen, None)

def make(num_tokens):
    by_token = [torch.randn(1, num_tokens, 16, width) for _ in range(3)]
    steps = torch.rand(1, num_tokens, 16) / 10
    return [leaf.requires_grad_() for leaf in (by_token[0], steps, -torch.ones(16), by_token[1], by_token[2])]

small = make(256)
ssd(*small).y.sum().backward()
inputs = make(num_tokens)
weights = torch.randn(1, num_tokens, 16, width)
size = sum(4 * tensor.numel() for tensor in (*inputs, weights))
outputs = 4 * weights.numel() + 4 * 16 * width * width
forward, output = peak_of(lambda: ssd(*inputs))
backward, _ = peak_of(lambda: output.y.backward(weights))
gradients = sum(4 * tensor.numel() for tensor in inputs)
print((forward - outputs) / size, (backward - gradients) / size)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from Linux's /proc")
@pytest.mark.parametrize("tier", ["native", "torch"])
@pytest.mark.parametrize("width", [64, 128])
def test_nothing_of_the_length_is_kept_but_states(tier: str, width: int) -> None:
    if tier == "native" and build.find_compiler() is None:
        pytest.skip("there is no C++ compiler")
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, tier, "8192", str(width)],
        env={**os.environ, "OMP_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        timeout=600,
        check=True,
    )
    forward, backward = map(float, done.stdout.split())
    # inputs and the output's gradient are in the denominator alone, so that both limits are on the strict side
    assert forward <= 0.15
    assert backward <= 1.0
