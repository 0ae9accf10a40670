"""Tables, headlines and verdicts of rows whose findings are known."""

import math
from typing import Any

import numpy as np
import pytest

from lab.experiments.hmm_risk.results.report import headline, summary_table
from lab.experiments.hmm_risk.results.summary import Curve, curves
from lab.experiments.hmm_risk.results.verdict import verdict

WIDTHS = (2, 5, 10, 20, 40)


def rows(
    risks: dict[int, list[list[float]]], *, floor: float = 0.5, null: float = 1.5, **fields: Any
) -> list[dict[str, Any]]:
    """Excess risks by width, problem and draw, for 10 training rows."""
    return [
        {
            "label": "a",
            "ridge": "0",
            "num_train": 10,
            "width": width,
            "gamma": width / 10,
            "context_length": 1,
            "problem": problem,
            "problem_is_drawn": True,
            "replicate": draw,
            "snr": 2.0,
            "noise_floor": floor,
            "misspecification": math.nan,
            "null_risk": null,
            "gaussian_reference": False,
            "theory_excess_risk": 0.4,
            "theory_exact": 0.5 if width < 9 else math.nan,
            "theory_independent_rows": math.nan,
            "bias": 0.0,
            "variance": risk,
            "excess_risk": risk,
            "prediction_risk": risk + floor,
            **fields,
        }
        for width, problems in risks.items()
        for problem, draws in enumerate(problems)
        for draw, risk in enumerate(draws)
    ]


def table(lines: list[Curve]) -> dict[str, list[Any]]:
    columns, body = summary_table(lines)
    return {name: [row[place] for row in body] for place, name in enumerate(columns)}


def peaked(scale: float = 1.0) -> dict[int, list[list[float]]]:
    """A peak at p = n, and little spread."""
    middle = dict(zip(WIDTHS, (0.4, 0.6, 50.0, 0.8, 0.5), strict=True))
    return {width: [[scale * risk * (1 + 0.01 * draw) for draw in (-1, 0, 1)]] for width, risk in middle.items()}


def test_numbers_are_numbers_in_full_precision_and_medians_are_marked_beside_them() -> None:
    found = table(curves(rows(peaked())))
    assert found["summary"] == ["mean", "mean", "median", "mean", "mean"]
    assert found["width"] == list(WIDTHS)
    assert found["s.e."][0] == pytest.approx(0.004 / math.sqrt(3), rel=1e-12)
    assert found["s.e."][2] is None
    assert found["10 %"][:2] == [None, None]
    assert found["10 %"][2] == pytest.approx(49.6)
    assert found["90 %"][2] == pytest.approx(50.4)
    for name, column in found.items():
        if name not in ("curve", "summary"):
            assert {type(entry) for entry in column} <= {float, int, type(None)}, name
    # one problem: nothing to say about others
    assert not {"s.d. between", "s.e. within", "on test rows"} & set(found)


def test_the_exact_line_is_compared_by_z_problem_by_problem_and_the_asymptotic_one_where_there_is_none() -> None:
    problems = rows({5: [[1.0, 1.2], [3.0, 3.4]], 40: [[0.4, 0.6], [0.4, 0.6]]})
    for row in problems:
        if row["width"] == 5:
            row["theory_exact"] = 1.0 if row["problem"] == 0 else 3.0
    found = table(curves(problems))
    # differences 0, 0.2 and 0, 0.4: means 0.1 and 0.2 of the problems
    assert found["z"][0] == pytest.approx(0.15 / (np.std([0.1, 0.2], ddof=1) / math.sqrt(2)), rel=1e-9)
    assert found["gap %"][0] == pytest.approx(100 * (2.15 / 2 - 1))
    assert found["z"][1] is None
    assert found["gap %"][1] == pytest.approx(100 * (0.5 / 0.4 - 1))
    assert found["s.d. between"][0] > 1


def test_test_rows_are_compared_with_the_exact_risk_of_the_same_draw() -> None:
    drawn = rows({5: [[1.0, 2.0, 3.0, 4.0]]})
    for row, error in zip(drawn, (0.1, -0.1, 0.2, 0.2), strict=True):
        row["test_risk"] = row["prediction_risk"] + error
    lines = curves(drawn)
    found = table(lines)
    assert found["on test rows"][0] == pytest.approx(3.1)
    errors = np.array([0.1, -0.1, 0.2, 0.2])
    assert found["z on test rows"][0] == pytest.approx(errors.mean() / (errors.std(ddof=1) / 2), rel=1e-9)
    assert any("test rows" in sentence for sentence in verdict(lines, is_one_problem=False))


def test_medians_and_what_predicting_zero_achieves_are_named() -> None:
    said = "\n".join(verdict(curves(rows(peaked())), is_one_problem=False))
    assert "excess risk peaks at gamma = 1 (p = 10, median 50)" in said
    assert "worse than predicting zero at p = 10" in said
    assert "one problem was drawn: the spread between HMMs is not in the error bars" in said
    assert "no mean is estimated at p = 10: medians" in said
    # total 2.1 to 3.1 beside a null risk of 1.5
    worse = "\n".join(verdict(curves(rows(peaked(4.0) | {3: [[2.0, 2.1, 2.2]]})), is_one_problem=False))
    assert "every size is worse than predicting zero" in worse
    assert "lowest at the smallest model (1.6), worse than predicting zero (1)" in worse
    assert "degenerate" not in worse


def test_several_problems_and_fixed_ones_have_no_remark_about_their_number() -> None:
    risks = {width: [[0.3, 0.4], [0.5, 0.6], [0.9, 0.8]] for width in WIDTHS}
    said = "\n".join(verdict(curves(rows(risks)), is_one_problem=False))
    assert "one problem" not in said
    assert "between 3 problems the excess risk has a standard deviation" in said
    fixed = "\n".join(verdict(curves(rows(peaked(), problem_is_drawn=False)), is_one_problem=False))
    assert "one problem" not in fixed


def test_a_headline_never_calls_the_end_of_a_grid_a_peak() -> None:
    assert headline(curves(rows(peaked()))).startswith("excess risk peaks at gamma 1 (median)")
    rising = {width: [[0.1 * width, 0.101 * width]] for width in (2, 3, 5)}
    assert "has no peak inside the grid" in headline(curves(rows(rising)))
    assert "peaks" not in headline(curves(rows(rising)))


def classes(accuracy: float, spread: float) -> list[Curve]:
    """Two sizes, four draws, beside a constant guess of 0.75."""
    draws = [accuracy - spread, accuracy + spread] * 2
    columns = {"accuracy": 0.0, "log_loss": 0.6, "constant_accuracy": 0.75, "constant_log_loss": 0.56}
    drawn = rows({5: [draws], 40: [draws]})
    keys = ("label", "ridge", "num_train", "width", "gamma", "context_length", "problem", "problem_is_drawn")
    kept = [{key: row[key] for key in (*keys, "replicate", "gaussian_reference")} for row in drawn]
    return curves(
        {**new, **columns, "labellings_rejected": 1, "accuracy": old["excess_risk"]}
        for new, old in zip(kept, drawn, strict=True)
    )


def test_classes_are_compared_with_a_constant_guess() -> None:
    poor = classes(0.752, 0.02)
    found = table(poor)
    assert found["constant accuracy"] == [0.75, 0.75]
    assert abs(found["z of accuracy"][0]) < 1
    said = "\n".join(verdict(poor, is_one_problem=False))
    assert "accuracy is no better than a constant guess at any size" in said
    assert "log-loss is no better than a constant guess at any size" in said
    assert "were drawn again" in said
    assert headline(poor) == "accuracy 0.752 at p = 5, constant guess 0.750: no better"
    good = classes(0.9, 0.02)
    assert (
        "accuracy is highest above a constant guess at p = 5: 0.9 against 0.75"
        in verdict(good, is_one_problem=False)[0]
    )
    assert headline(good) == "accuracy 0.900 at p = 5, constant guess 0.750"


def test_one_width_below_p_equal_to_n_has_no_smallest_model() -> None:
    risks = {width: draws for width, draws in peaked(0.1).items() if width >= 5}
    said = "\n".join(verdict(curves(rows(risks)), is_one_problem=False))
    assert "below p = n its minimum is 0.06 at p = 5" in said
    assert "degenerate" not in said


def test_a_difference_of_two_draws_needs_more_standard_errors() -> None:
    # totals of 1.5 + 0.2 and 1.5 + 0.3 beside a null risk of 1.5: z = 5, below Student's 12.7 of one degree of freedom
    draws = [1.2, 1.3]
    few = "\n".join(verdict(curves(rows({5: [draws]})), is_one_problem=False))
    assert "worse than predicting zero" not in few
    assert "of 2 draws, one z in twenty is beyond 12.7 by chance" in few
    many = "\n".join(verdict(curves(rows({5: [draws * 10]})), is_one_problem=False))
    assert "worse than predicting zero" in many
    assert "by chance" not in many
