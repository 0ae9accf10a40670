"""`lab bench products`: what is compared, which cells there are, and what is concluded from them."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lab.core.products.implementations import TORCH, Operation
from lab.experiments.bench import products
from lab.experiments.bench.harness import Row, Status
from lab.experiments.bench.products import HOVLE, Cell, cells, conclude, product_case
from lab.experiments.bench.products_problem import ProductProblem, ProductSetting
from lab.experiments.bench.rates import LibraryProduct, MachinePeak

SETTING = ProductSetting(outputs=6, inputs=5, rows=40, operation=Operation.forward, dtype=torch.float32)
PEAK = MachinePeak(
    threads=1,
    flops_per_s={"float32": 1e9},
    read_bytes_per_s=1e9,
    update_bytes_per_s=1e9,
    products=[
        LibraryProduct(name="torch.nn.functional.linear", size=8, flops_per_s=4e8),
        LibraryProduct(name="numpy", size=8, flops_per_s=8e8),
    ],
)


@pytest.mark.parametrize("operation", Operation)
def test_a_wrong_product_differs(operation: Operation) -> None:
    problem = ProductProblem(replace(SETTING, operation=operation))
    found = problem.call(TORCH.functions[operation])()
    assert problem.difference(found) < 1e-6
    assert problem.difference(1.01 * found) > 5e-3
    assert problem.difference(found[:-1]) == float("inf")


def test_with_few_rows_weights_take_turns() -> None:
    problem = ProductProblem(replace(SETTING, rows=1, streamed_bytes=4 * 30 * 3))
    seen: list[int] = []

    def noted(x: Tensor, weight: Tensor) -> Tensor:
        seen.append(weight.data_ptr())
        return x @ weight.T

    run = problem.call(noted)
    for _ in range(6):
        assert problem.difference(run()) < 1e-6
    assert len(set(seen[:3])) == 3
    assert seen[:3] == seen[3:]
    assert problem.setting.work.read_bytes == 4 * 30
    assert SETTING.work.read_bytes == 0
    assert SETTING.work.executed_flops == SETTING.work.flops == 2 * 40 * 30


def test_there_is_a_cell_for_everything() -> None:
    dtypes = (torch.float32, torch.bfloat16)
    found = list(cells(dtypes, quick=False, streamed_bytes=2**30))
    assert len(found) == len({cell.name for cell in found}) == 3 * 2 * 3 * 7
    streamed = [cell for cell in found if cell.setting.streamed_bytes]
    assert {cell.model for cell in streamed} == {HOVLE, "SmolLM2-135M"}
    assert {cell.setting.rows for cell in streamed} == {1, 4, 8, 16}
    assert Operation.weight_gradient not in {cell.setting.operation for cell in streamed}


def test_a_case_has_ours_and_torchs() -> None:
    case = product_case(Cell("tiny teacher", SETTING), PEAK)
    assert [case.ours.name, *(other.name for other in case.others)] == ["lab (torch)", "torch"]
    assert case.ours.difference(case.ours.run()) < 1e-6


def rows(
    ours_s: float,
    theirs_s: float,
    *,
    executed: float | None = None,
    streaming: float | None = None,
    name: str = "lab (onednn)",
) -> list[Row]:
    ours = Row(
        case="",
        candidate=name,
        status=Status.timed,
        times_s=(ours_s,),
        ratio=1.0,
        executed_share=executed,
        streaming_share=streaming,
    )
    return [ours, Row(case="", candidate="torch", status=Status.timed, times_s=(theirs_s,), ratio=theirs_s / ours_s)]


def measured() -> dict[Cell, list[Row]]:
    def cell(operation: Operation, num_rows: int, model: str = HOVLE) -> Cell:
        return Cell(model, replace(SETTING, operation=operation, rows=num_rows))

    return {
        cell(Operation.forward, 256): rows(1.0, 2.5, executed=0.8),
        cell(Operation.input_gradient, 256): rows(1.0, 1.5, executed=0.78),
        cell(Operation.weight_gradient, 256): rows(2.0, 3.0, executed=0.76),
        cell(Operation.forward, 1): rows(1.0, 1.1, executed=0.1, streaming=0.7),
        cell(Operation.forward, 4, "tiny teacher"): rows(1.0, 0.97),
        # the same function twice
        cell(Operation.input_gradient, 4, "tiny teacher"): rows(1.0, 0.5, name="lab (torch)"),
    }


def test_the_least_ratios_and_shares_are_judged() -> None:
    least, forward, training, share, streaming = conclude(measured(), PEAK, is_judged=True)
    assert (least.value, least.is_met) == (0.97, False)
    assert "tiny teacher, float32, forward, 4 rows" in least.note
    assert (forward.value, forward.is_met) == (2.5, True)
    # 7 seconds against 4
    assert (training.value, training.is_met) == (1.75, False)
    assert (share.value, share.is_met) == (0.76, True)
    assert (streaming.value, streaming.is_met) == (0.7, False)
    assert all(finding.is_met is None for finding in conclude(measured(), PEAK, is_judged=False))


def test_where_torch_is_not_behind_nothing_has_to_be_won() -> None:
    libraries = [replace(PEAK.products[0], flops_per_s=7.5e8), PEAK.products[1]]
    least, forward, training, *_ = conclude(measured(), replace(PEAK, products=libraries), is_judged=True)
    assert (forward.is_met, training.is_met) == (None, None)
    assert "not behind on this processor" in forward.note
    assert least.is_met is False


def test_without_rates_no_share_is_judged() -> None:
    *_, share, streaming = conclude(measured(), MachinePeak(threads=1, why_not="no compiler"), is_judged=True)
    assert (share.is_met, streaming.is_met) == (None, None)
    assert "no compiler" in share.note


@pytest.mark.slow
def test_the_command_compares_times_and_writes(lab: Callable[..., Any], tmp_path: Path) -> None:
    done = lab("bench", "products", "--quick", "--repeats", "2", "--json", str(tmp_path / "result.json"))
    assert done.code == 0, done.err
    content = json.loads((tmp_path / "result.json").read_text())
    assert len(content["cases"]) == (12 if products.has_bfloat16() else 6)
    assert {row["status"] for case in content["cases"] for row in case["rows"]} == {"timed"}
    assert all(finding["is_met"] is None for finding in content["findings"])
