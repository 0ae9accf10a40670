"""The C++ library: built once and kept, safe beside other processes, and not needed."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lab.core.native import build
from lab.core.ssd import reference
from lab.core.ssd.chunked import autograd, native

USE = """
import torch
from lab.core.native import build
from lab.core.ssd import ssd
from lab.core.ssd.chunked import autograd
assert build.load_native.cache_info().currsize == 0, "nothing is built by an import"
x = torch.ones(1, 5, 2, 3)
y = ssd(x, torch.ones(1, 5, 2), -torch.ones(2), torch.ones(1, 5, 1, 4), torch.ones(1, 5, 1, 4)).y
choice = autograd.choose_tier(x.device)
print(choice.tier.name, float(y.sum()), choice.why_not_native, sep="|")
"""


def start(cache: Path, **environment: str) -> subprocess.Popen[str]:
    inherited = {name: value for name, value in os.environ.items() if name != "CXX"}
    return subprocess.Popen(
        [sys.executable, "-c", USE],
        env={**inherited, "XDG_CACHE_HOME": str(cache), **environment},
        stdout=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> list[str]:
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    return out.strip().split("|")


# as their callers build them, so that each is built once
WITH_OPENMP = {
    "decode.cpp",
    "delta_step.cpp",
    "divergence.cpp",
    "fused.cpp",
    "matrix_product.cpp",
    "rows_product.cpp",
    "step.cpp",
}
needs_compiler = pytest.mark.skipif(build.find_compiler() is None, reason="there is no C++ compiler")


@needs_compiler
@pytest.mark.parametrize("source", sorted(path.name for path in (Path(build.__file__).parent / "src").glob("*.cpp")))
def test_every_source_can_be_built(source: str) -> None:
    """Other tests leave out what cannot be built."""
    assert build.load_native(source, *(["-fopenmp"] if source in WITH_OPENMP else [])).why_not is None


@pytest.mark.slow
@needs_compiler
def test_two_processes_may_build_at_once_and_a_third_builds_nothing(tmp_path: Path) -> None:
    both = [finish(process) for process in [start(tmp_path), start(tmp_path)]]
    assert [(tier, why_not) for tier, _, why_not in both] == [("native", "None")] * 2
    (built,) = (tmp_path / "ssm-lab" / "native").iterdir()
    modified = built.stat().st_mtime_ns
    tier, total, _ = finish(start(tmp_path))
    assert (tier, total) == ("native", both[0][1])
    assert built.stat().st_mtime_ns == modified


@pytest.mark.slow
def test_without_a_compiler_torch_does_the_work_and_says_why(tmp_path: Path) -> None:
    tier, total, reason = finish(start(tmp_path, CXX="/nonexistent"))
    assert tier == "torch"
    assert "C++ compiler" in reason
    assert float(total) == pytest.approx(float(chunked_total()))
    assert list(tmp_path.iterdir()) == []


def chunked_total() -> torch.Tensor:
    ones = torch.ones
    return autograd.ssd(ones(1, 5, 2, 3), ones(1, 5, 2), -ones(2), ones(1, 5, 1, 4), ones(1, 5, 1, 4)).y.sum()


@pytest.fixture
def fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def broken_compiler(folder: Path) -> Path:
    script = folder / "broken-c++"
    script.write_text('#!/bin/sh\n[ "$1" = --version ] && exit 0\necho "x.cpp:1: error: no such thing" >&2\nexit 1\n')
    script.chmod(0o755)
    return script


def test_a_compiler_that_fails_is_named_with_its_error(
    fresh_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = broken_compiler(tmp_path)
    monkeypatch.setenv("CXX", str(script))
    built = build.load_native.__wrapped__("chunked.cpp")
    assert built.library is None
    assert built.why_not is not None
    assert str(script) in built.why_not
    assert "error: no such thing" in built.why_not
    assert list((fresh_cache / "ssm-lab" / "native").iterdir()) == []


@needs_compiler
def test_a_cache_that_cannot_be_written_is_named(fresh_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh_cache.write_text("a file where the folder should be")
    built = build.load_native.__wrapped__("chunked.cpp")
    assert built.library is None
    assert built.why_not is not None
    assert "XDG_CACHE_HOME" in built.why_not


@pytest.mark.slow
@needs_compiler
@pytest.mark.skipif(platform.machine() != "x86_64", reason="the names of the processors are those of x86-64")
@pytest.mark.parametrize("processor", ["x86-64", "x86-64-v3"])
def test_registers_of_every_width_compute_the_same(
    fresh_cache: Path, monkeypatch: pytest.MonkeyPatch, processor: str
) -> None:
    monkeypatch.setattr(build, "_THIS_PROCESSOR", (f"-march={processor}",))
    built = build.load_native.__wrapped__("chunked.cpp")
    assert built.why_not is None
    generator = torch.Generator().manual_seed(0)
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 2e-5)):
        for num_tokens, head_dim, state_dim, num_groups in (
            (1, 3, 5, 1),
            (65, 24, 20, 2),
            (127, 64, 64, 1),
            (200, 17, 33, 4),
        ):
            shapes = {
                "x": (2, num_tokens, 4, head_dim),
                "dt": (2, num_tokens, 4),
                "B": (2, num_tokens, num_groups, state_dim),
                "C": (2, num_tokens, num_groups, state_dim),
                "initial_state": (2, 4, head_dim, state_dim),
            }
            drawn = {name: torch.randn(shape, generator=generator, dtype=dtype) for name, shape in shapes.items()}
            leaves = {
                name: tensor.requires_grad_() for name, tensor in {**drawn, "A": -torch.rand(4, dtype=dtype)}.items()
            }
            monkeypatch.setattr(native, "load_native", lambda source: built)
            found = autograd.ssd(**leaves, dt_softplus=True, chunk_size=48)
            expected = reference.ssd(**leaves, dt_softplus=True)
            for ours, theirs in (
                *zip(found, expected, strict=True),
                *zip(
                    torch.autograd.grad(found, list(leaves.values()), [torch.ones_like(part) for part in found]),
                    torch.autograd.grad(expected, list(leaves.values()), [torch.ones_like(part) for part in expected]),
                    strict=True,
                ),
            ):
                difference, largest = (ours - theirs).abs().max(), theirs.abs().max()
                assert difference <= tolerance * largest, (dtype, num_tokens)


def test_other_devices_use_torch() -> None:
    choice = autograd.choose_tier(torch.device("cuda"))
    assert choice.tier is autograd.TORCH
    assert choice.why_not_native is not None
    assert "cuda" in choice.why_not_native
