"""The rates of the machine: measured where there is a compiler, never invented where there is none."""

import os
from pathlib import Path

import pytest
import torch
from rich.console import Console

from lab.core.native import build
from lab.experiments.bench import peak as peak_module
from lab.experiments.bench import report
from lab.experiments.bench.harness import Row, Status
from lab.experiments.bench.peak import measure_peak
from lab.experiments.bench.rates import LibraryProduct, MachinePeak
from lab.experiments.bench.shares import share_findings

needs_compiler = pytest.mark.skipif(build.find_compiler() is None, reason="there is no C++ compiler")


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peak_module, "_PRODUCT_S", 0.01)


def printed(peak: MachinePeak) -> str:
    console = Console(width=200, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    report.print_peak(console, peak)
    console.file.close()
    return console.export_text()


@needs_compiler
def test_rates_are_those_of_this_machine() -> None:
    peak = measure_peak(quick=True)
    assert peak.why_not == ""
    assert peak.threads == torch.get_num_threads()
    assert peak.flops_per_s["float32"] > peak.flops_per_s["float64"] > 1e8
    assert peak.read_bytes_per_s is not None
    assert peak.read_bytes_per_s > 1e8
    assert peak.update_bytes_per_s is not None
    assert peak.update_bytes_per_s > 1e8
    # torch and numpy are always there
    timed = [product.name for product in peak.products if product.flops_per_s]
    assert {"torch.nn.functional.linear", "numpy"} <= set(timed)
    text = printed(peak)
    assert "FMA peak" in text
    assert all(name in text for name in timed)


def test_without_a_compiler_there_are_products_and_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = build.Native(None, "no C++ compiler was found; install g++ or clang++, or name one in CXX")
    monkeypatch.setattr(peak_module, "load_native", lambda source: missing)
    peak = measure_peak(quick=True)
    assert peak.flops_per_s == {}
    assert (peak.read_bytes_per_s, peak.update_bytes_per_s) == (None, None)
    assert peak.why_not == missing.why_not
    assert any(product.flops_per_s for product in peak.products)
    text = printed(peak)
    assert "No shares" in text
    assert "no C++ compiler was found" in text
    assert "%" not in text
    executed, paper = share_findings("forward", Row(case="", candidate="", status=Status.timed), peak, at_least=0.7)
    assert (executed.value, executed.is_met, executed.note) == (None, None, missing.why_not)
    assert (paper.value, paper.is_met, paper.note) == (None, None, missing.why_not)


def test_a_product_with_another_result_or_without_its_operator_is_not_timed() -> None:
    exact = torch.ones(4, 8, dtype=torch.float64)

    def refuse() -> torch.Tensor:
        raise RuntimeError("no such operator\nand more")

    wrong = peak_module._product("wrong", lambda: 1.01 * torch.ones(8, 8), exact)
    absent = peak_module._product("absent", refuse, exact)
    assert (wrong.flops_per_s, wrong.note) == (None, "another result")
    assert (absent.flops_per_s, absent.note) == (None, "not here: no such operator")
    right = peak_module._product("right", lambda: torch.ones(8, 8), exact)
    peak = MachinePeak(threads=1, flops_per_s={"float32": 1e9}, products=[wrong, right, absent])
    assert peak.best_product is right
    assert "product of absent, 8 x 8, float32: not here: no such operator" in printed(peak)


def test_shares_are_judged_as_executed_only() -> None:
    row = Row(case="", candidate="", status=Status.timed, executed_share=0.64, peak_share=0.85)
    peak = MachinePeak(threads=2, flops_per_s={"float32": 1e9})
    executed, paper = share_findings("forward", row, peak, at_least=0.7)
    assert executed.name == "share of the FMA peak, forward, operations as executed"
    assert (executed.value, executed.is_met) == (0.64, False)
    assert (paper.value, paper.is_met) == (0.85, None)


def test_no_library_is_the_best_of_none() -> None:
    assert MachinePeak(threads=1, products=[LibraryProduct(name="numpy", size=2)]).best_product is None


@needs_compiler
def test_the_source_is_packaged_with_the_other_loops() -> None:
    assert (Path(build.__file__).parent / "src" / "machine_peak.cpp").exists()
