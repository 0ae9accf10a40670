"""Points of a probe: what an estimate from training rows is held against."""

from typing import Any

import pytest

from lab.experiments.probe.results import Results


@pytest.mark.parametrize(("ridge", "expected"), [(0.0, 0.0), (1.0, -50.0)])
def test_one_draw_with_a_huge_risk_does_not_move_the_gap_of_an_estimate_without_ridge(
    ridge: float, expected: float
) -> None:
    head = {"kind": "measured", "curve": "layer 5", "num_train": 20, "width": 60, "ridge": ridge, "corr_gcv": 1.0}
    table: list[Any] = [{"kind": "curve", "curve": "layer 5"}]
    for draw, risk in enumerate((1.0, 2.0, 3.0, 2.0, 12.0)):
        table.append({**head, "draw": draw, "risk": risk, "gcv": 2.0, "leave_one_out": 2.0})
    (point,) = Results.of(table).points
    # the median risk is 2, the mean 4
    assert point.mean == 4.0
    assert point.gap("gcv") == pytest.approx(expected)
