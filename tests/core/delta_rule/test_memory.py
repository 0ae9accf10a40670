"""Peak memory of the gated delta rule in a fresh process, above its inputs and outputs, at two lengths."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lab.core.native import build

MEASURE = """
import sys, torch
from lab.core.delta_rule import gated_delta_rule
from lab.core.delta_rule.chunked import autograd
from lab.experiments.bench.memory import peak_of, size_of

torch.set_num_threads(2)
tier, num_tokens = sys.argv[1], int(sys.argv[2])
chosen = {"native": autograd.NATIVE, "torch": autograd.TORCH}[tier]
autograd.choose_tier = lambda device: autograd.TierChoice(chosen, None)

def make(num_tokens):
    by_token = [torch.randn(1, num_tokens, 16, 64) / 8 for _ in range(3)]
    rest = [-torch.rand(1, num_tokens, 16), torch.rand(1, num_tokens, 16)]
    return [leaf.requires_grad_() for leaf in by_token + rest]

gated_delta_rule(*make(256)).y.sum().backward()
inputs = make(num_tokens)
weights = torch.randn(1, num_tokens, 16, 64)
size = size_of((*inputs, weights))
output, forward = peak_of(lambda: gated_delta_rule(*inputs), "cpu")
_, backward = peak_of(lambda: output.y.backward(weights) or (), "cpu")
print((forward - size_of(output)) / size, (backward - size_of(inputs)) / size)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from Linux's /proc")
@pytest.mark.parametrize("tier", ["native", "torch"])
@pytest.mark.parametrize("num_tokens", [4096, 16_384])
def test_memory_is_linear_and_nothing_is_kept_but_the_inputs(tier: str, num_tokens: int) -> None:
    if tier == "native" and build.find_compiler() is None:
        pytest.skip("there is no C++ compiler")
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, tier, str(num_tokens)],
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
