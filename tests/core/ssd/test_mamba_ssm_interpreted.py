"""The tests of the GPU kernels run on a CPU, in a process of their own: Triton reads the switch when it is imported."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest


@pytest.mark.triton_interpreter
@pytest.mark.skipif(
    any(find_spec(name) is None for name in ("mamba_ssm", "triton", "einops")),
    reason="mamba-ssm, triton or einops is not installed; `lab doctor` says how to add them",
)
def test_the_kernels_pass_under_tritons_interpreter() -> None:
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-m",
            "gpu",
            "-p",
            "no:cacheprovider",
            "tests/core/ssd/test_mamba_ssm.py",
        ],
        cwd=root,
        # deterministic mode: one configuration of each kernel, since tuning needs a driver
        env={**os.environ, "TRITON_INTERPRET": "1", "MAMBA_DETERMINISTIC": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed, done.stdout
    assert int(passed[1]) >= 15, done.stdout
