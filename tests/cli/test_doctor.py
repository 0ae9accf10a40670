"""`lab doctor` says what this machine can run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lab.cli import doctor
from lab.core.native.dlpack import tensor_exchange
from lab.core.operators.backends import operators

Lab = Callable[..., Any]


def test_the_doctor_says_what_runs_here_on_one_screen_and_builds_nothing(
    lab: Lab, outputs: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    done = lab("doctor", env={"XDG_CACHE_HOME": str(cache), "CUDA_VISIBLE_DEVICES": "", "COLUMNS": "120"})
    assert done.code == 0, done.err
    for word in ("torch", "devices", "mamba-ssm", "causal-conv1d", "C++ compiler", "Slurm", "font"):
        assert word in done.out
    lines = {line.split()[0]: line for line in done.out.splitlines() if line.strip()}
    for operator in operators():
        assert "on cpu; not " in lines[operator]
        assert "it needs a CUDA device" in lines[operator]
    assert "chunked" in lines["ssd"]
    assert len(done.out.splitlines()) <= 30
    assert not outputs.exists()
    assert not list(cache.rglob("*.so"))


def test_a_missing_compiler_is_named_with_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "a-compiler-that-is-not-there")
    (finding,) = (finding for finding in doctor.findings() if finding.subject == "C++ compiler")
    assert finding.result.startswith("missing: ")
    assert finding.hint == "apt-get install g++"


def test_an_older_torch_is_named_with_what_it_slows_down(monkeypatch: pytest.MonkeyPatch) -> None:
    is_older = torch.__version__ < (2, 10)
    assert ("decoding step" in [finding.subject for finding in doctor.findings()]) == is_older
    monkeypatch.delattr(torch.Tensor, "__dlpack_c_exchange_api__", raising=False)
    tensor_exchange.cache_clear()
    try:
        (finding,) = (finding for finding in doctor.findings() if finding.subject == "decoding step")
    finally:
        tensor_exchange.cache_clear()
    assert finding.result.startswith("runs in torch, slower")
    assert finding.hint == "pip install 'torch>=2.10,<2.14'"
