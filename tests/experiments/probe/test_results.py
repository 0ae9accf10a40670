"""Points of a probe: what an estimate from training rows is held against."""

import math
from typing import Any

import pytest

from lab.experiments.probe.config import Basis
from lab.experiments.probe.report import verdict
from lab.experiments.probe.results import Results, lowest


@pytest.mark.parametrize(("ridge", "expected"), [(0.0, 0.0), (1.0, -50.0)])
def test_one_draw_with_a_huge_risk_does_not_move_the_gap_of_an_estimate_without_ridge(
    ridge: float, expected: float
) -> None:
    head = {"kind": "measured", "curve": "layer 5", "num_train": 20, "width": 60, "ridge": ridge, "corr_gcv": 1.0}
    rows: list[Any] = [{"kind": "curve", "curve": "layer 5"}]
    for draw, risk in enumerate((1.0, 2.0, 3.0, 2.0, 12.0)):
        rows.append({**head, "draw": draw, "risk": risk, "gcv": 2.0, "leave_one_out": 2.0})
    (point,) = Results.of(rows).points
    # the median risk is 2, the mean 4
    assert point.mean == 4.0
    assert point.gap("gcv") == pytest.approx(expected)


def table(heads: list[dict[str, Any]], num_train: int = 100) -> list[Any]:
    """Three draws of each head, one of which is a thousand times as high."""
    rows: list[Any] = [
        {"kind": "curve", "curve": "", "num_rows": 3000, "num_features": 200, "leverage_sd": None, "cosine": 0.1}
    ]
    for head in heads:
        at = {"curve": "", "num_train": num_train, "width": head["width"], "ridge": head["ridge"]}
        line = head.get("line", 2.0)
        theory = {"rank": head["rank"], "floor": 1.0, "gaussian": line, "elliptical": line}
        rows.append({"kind": "theory", **at, **theory})
        estimates = {"train": head["train"], "gcv": 2.0, "corr_gcv": 2.0, "leave_one_out": 2.0}
        risks = [head["risk"], 1000 * head["risk"], head["risk"]]
        rows += [{"kind": "measured", **at, **estimates, "draw": draw, "risk": risk} for draw, risk in enumerate(risks)]
    return rows


def test_a_ridge_too_small_to_matter_at_the_threshold_leaves_medians_which_are_compared_with_medians() -> None:
    at = {"width": 102, "rank": 102}
    # the training error is GCV times the square of the share of degrees of freedom that are left
    tiny, small = 2 * 0.02**2, 2 * 0.05**2
    heads = [(0.0, 0.0, 3.0), (1e-12, tiny, 3.0), (1e-3, small, 0.1)]
    points = Results.of(table([{**at, "ridge": r, "train": t, "risk": m} for r, t, m in heads])).points
    assert [point.summary for point in points] == ["median", "median", "mean"]
    assert points[1].mean == 3.0
    assert math.isinf(points[1].high)
    # the mean of the last is 33
    assert lowest(points) is points[2]


def test_the_rank_of_the_features_decides_where_the_threshold_is() -> None:
    far = {"width": 50, "rank": 25, "ridge": 0.0, "train": 1.0, "risk": 2.0}
    heads = [far, {**far, "width": 198, "rank": 99}, {**far, "width": 100, "rank": 50, "line": math.inf}]
    results = Results.of(table(heads))
    assert [point.summary for point in results.points] == ["mean", "median", "mean"]
    assert [point.is_away for point in results.points] == [True, False, True]
    assert math.isnan(results.points[2].gap("gaussian"))
    assert not results.points[2].is_beyond("gaussian", 5.0)
    said = " ".join(verdict(results, Basis.rotation))
    assert "-100" not in said
    assert "of 1 points beyond" in said or "points beyond" not in said
