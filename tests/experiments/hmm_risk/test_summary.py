"""From rows of a table to curves: means, standard errors and quantiles against values worked out by hand."""

import math
from typing import Any

import pytest

from lab.experiments.hmm_risk.results.summary import curves


def row(width: int, replicate: int, risk: float | None, **fields: Any) -> dict[str, Any]:
    return {
        "label": "",
        "ridge": "0",
        "num_train": 10,
        "width": width,
        "gamma": width / 10,
        "context_length": 1,
        "replicate": replicate,
        "snr": 2.0,
        "noise_floor": 0.5,
        "misspecification": 0.1,
        "null_risk": 1.5,
        "gaussian_reference": False,
        "problem": 0,
        "problem_is_drawn": True,
        "theory_excess_risk": 2.0,
        "excess_risk": risk,
    } | fields


def test_standard_errors_divide_by_one_less_than_the_number_of_draws() -> None:
    # squares of the distances from the mean 3: 4 + 1 + 0 + 9 = 14; 14 / 3 / 4 is the variance of the mean
    (curve,) = curves([row(2, replicate, risk) for replicate, risk in enumerate((1.0, 2.0, 3.0, 6.0))])
    assert curve.mean["excess_risk"].tolist() == [3.0]
    assert curve.standard_error["excess_risk"][0] == pytest.approx(math.sqrt(14 / 3 / 4), rel=1e-14)
    assert curve.median["excess_risk"].tolist() == [2.5]
    # linear interpolation between order statistics: 1 + 0.3 (2 - 1) and 3 + 0.7 (6 - 3)
    assert curve.low["excess_risk"][0] == pytest.approx(1.3, rel=1e-14)
    assert curve.high["excess_risk"][0] == pytest.approx(5.1, rel=1e-14)


def test_points_are_ordered_by_width_and_gaps_are_taken_where_there_is_a_mean() -> None:
    rows = [row(width, replicate, float(width)) for width in (20, 2, 10) for replicate in (0, 1)]
    (curve,) = curves(rows)
    assert curve.x["width"].tolist() == [2, 10, 20]
    # within three rows of p = n the mean is infinite
    assert curve.has_mean.tolist() == [True, False, True]
    gap = curve.gap("excess_risk", "excess_risk")
    assert gap[[0, 2]].tolist() == [0.0, 9.0]
    assert math.isnan(gap[1])
    assert curve.null_excess.tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("width", "ridge", "variance", "has_mean"),
    [
        # n = 10, floor 0.5: the variance 0.5 df / (10 - df) leaves 10 - df rows free
        (10, "1e-12", 1e6, False),
        (10, "1e-12", math.inf, False),
        (7, "1e-12", 0.5 * 7 / 3 - 1e-9, False),
        (10, "0.1", 0.5 * 5 / 5, True),
        (6, "1e-12", 0.5 * 6 / 4, True),
    ],
)
def test_next_to_p_equal_to_n_a_tiny_ridge_is_as_none(width: int, ridge: str, variance: float, has_mean: bool) -> None:
    rows = [row(width, replicate, 1.0, ridge=ridge, theory_variance=variance) for replicate in (0, 1)]
    (curve,) = curves(rows)
    assert curve.has_mean.tolist() == [has_mean]


def test_an_infinite_signal_to_noise_ratio_is_in_no_label() -> None:
    # targets that are certain
    (curve,) = curves([row(width, draw, 0.0, snr=math.inf) for width in (2, 20) for draw in (0, 1)])
    assert curve.label == "measured"
