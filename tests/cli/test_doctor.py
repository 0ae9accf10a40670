"""`lab doctor` says what this machine can run."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lab.cli import doctor
from lab.core.native.dlpack import tensor_exchange
from lab.core.operators.backends import operators
from lab.core.products import cache, choice
from lab.core.products.choice import described, only
from lab.core.products.implementations import ONEDNN, TORCH

Typed = Callable[..., Any]


def test_the_doctor_says_what_runs_here_on_one_screen_and_builds_nothing(
    typed: Typed, outputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    for name, value in {"XDG_CACHE_HOME": str(cache), "CUDA_VISIBLE_DEVICES": "", "COLUMNS": "120"}.items():
        monkeypatch.setenv(name, value)
    done = typed("doctor")
    assert done.code == 0, done.err
    for word in ("torch", "devices", "mamba-ssm", "causal-conv1d", "C++ compiler", "Slurm", "font"):
        assert word in done.out
    lines = {line.split()[0]: line for line in done.out.splitlines() if line.strip()}
    for operator in operators():
        assert "on cpu; not " in lines[operator]
        assert "it needs a CUDA device" in lines[operator]
    assert "chunked" in lines["ssd"]
    for dtype in ("float32", "bfloat16"):
        assert "not measured yet" in lines[dtype]
    assert len(done.out.splitlines()) <= 32
    assert not outputs.exists()
    assert not list(cache.rglob("*.so"))


def test_a_report_in_a_file_breaks_no_command(typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    hint = f"pip install {'a-package-of-a-long-name ' * 12}--no-deps"
    monkeypatch.setattr(doctor, "findings", lambda: [doctor.Finding("package", "missing", hint)])
    assert f"add it: {hint}" in typed("doctor").out


def test_what_was_measured_for_products_is_in_a_line_for_each_dtype(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    threads, before = len(os.sched_getaffinity(0)), torch.get_num_threads()
    cache.recall_or_measure(torch.bfloat16, threads, lambda dtype: only(TORCH))
    lines = {finding.subject: finding.result for finding in doctor.findings()}
    assert lines["bfloat16 products"] == f"on {threads} threads: torch everywhere"
    assert lines["float32 products"].startswith(f"on {threads} threads: not measured yet")
    monkeypatch.setattr(choice, "measured", lambda dtype: only(TORCH if dtype is torch.bfloat16 else ONEDNN))
    try:
        doctor.measure_products()
    finally:
        torch.set_num_threads(before)
    lines = {finding.subject: finding.result for finding in doctor.findings()}
    assert lines["float32 products"] == f"on {threads} threads: {described(only(ONEDNN))}"


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
