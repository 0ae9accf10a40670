"""What a table of a sweep bears out, and what it does not."""

import json
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lab.core.report.content import Verdict
from lab.core.report.recorded import RecordedRun
from lab.experiments.hmm_risk.results.claims import findings

GAMMAS = (0.2, 0.5, 0.95, 1.0, 1.5, 3.0)
PEAKED = (0.1, 0.4, 3.0, 50.0, 0.9, 0.6)


def curve(excess: Sequence[float], label: str = "a", **columns: Any) -> dict[str, Any]:
    """Columns of one curve of 100 rows."""
    count = len(excess)
    widths = [round(100 * gamma) for gamma in GAMMAS]
    given = {"curve": [label] * count, "width": widths, "gamma": list(GAMMAS), "excess": list(excess)}
    return {**given, "summary": ["mean"] * count, "s.e.": [0.01] * count, **columns}


def run_of(folder: Path, *curves: dict[str, Any], reference: bool = False, **config: Any) -> RecordedRun:
    names = list(dict.fromkeys(name for columns in curves for name in columns))
    rows = [
        [columns.get(name, [None] * len(columns["width"]))[place] for name in names]
        for columns in curves
        for place in range(len(columns["width"]))
    ]
    (folder / "figures").mkdir()
    (folder / "figures" / "excess_risk.png").write_bytes(b"")
    (folder / "summary.json").write_text(json.dumps({"columns": names, "rows": rows, "verdict": []}))
    config = {"num_train": 100, "replicates": 20, "problems": 1, "num_test": None, **config}
    (folder / "config.json").write_text(json.dumps(config))
    write_draws(folder, config["problems"], config["replicates"], reference=reference)
    return RecordedRun(folder, "run")


def write_draws(folder: Path, problems: int, replicates: int, *, reference: bool = False) -> None:
    """A table with these draws; of theory alone without replicates."""
    rows = list(product(range(problems), range(max(replicates, 1))))
    columns = {
        "curve": [""] * len(rows),
        "problem": [problem for problem, _ in rows],
        "gaussian_reference": [reference] * len(rows),
    }
    drawn = {"replicate": [replicate for _, replicate in rows]} if replicates else {}
    pq.write_table(pa.table({**columns, **drawn}), folder / "table.parquet")


def verdicts(run: RecordedRun) -> dict[str, tuple[Verdict, str]]:
    found = findings(run)
    assert list(found.faults) == []
    return {claim.statement.partition(": ")[0]: (claim.verdict, claim.evidence) for claim in found.claims}


def statements(run: RecordedRun) -> list[str]:
    return [claim.statement for claim in findings(run).claims]


def test_a_curve_that_peaks_at_p_equals_n(tmp_path: Path) -> None:
    kind = ["mean", "mean", "mean", "median", "mean", "mean"]
    spread = [None, None, None, 20.0, None, None]
    found = verdicts(
        run_of(
            tmp_path, curve(PEAKED, summary=kind, **{"10 %": spread, "90 %": [2 * (x or 0) or None for x in spread]})
        )
    )
    verdict, evidence = found["Excess risk is highest where there are as many features as rows (p = n)"]
    assert verdict is Verdict.holds
    assert "50 (median, 10 to 90 % of the draws 20 to 40), at gamma 1" in evidence
    verdict, evidence = found["Below p = n the smallest model has the least excess risk (a degenerate descent)"]
    assert (verdict, "p = 20 (0.1 ± 0.02)" in evidence) == (Verdict.holds, True)


def test_one_of_two_curves_bears_a_claim_out(tmp_path: Path) -> None:
    falling = curve((0.9, 0.5, 0.4, 0.3, 0.2, 0.1), "no peak")
    found = verdicts(run_of(tmp_path, curve(PEAKED), falling))
    verdict, evidence = found["Excess risk is highest where there are as many features as rows (p = n)"]
    assert verdict is Verdict.partly
    # what speaks against it first
    assert evidence.startswith("True of 1 of 2 curves. no peak: its highest value, 0.9 ± 0.02, at gamma 0.2")


def test_theory_is_compared_with_means_away_from_the_threshold(tmp_path: Path) -> None:
    theory = [0.101, 0.39, 1.0, None, 0.9, 0.6]
    statement = "Random-matrix theory is within 5 % outside gamma 0.8 to 1.25"
    assert verdicts(run_of(tmp_path, curve(PEAKED, theory=theory)))[statement][0] is Verdict.holds


def test_theory_of_other_data_is_called_so(tmp_path: Path) -> None:
    run = run_of(tmp_path, curve(PEAKED, theory=[0.2, 0.4, 1.0, None, 0.9, 0.6]), reference=True)
    statement = "The theory of Gaussian features with the same moments is within 5 % outside gamma 0.8 to 1.25"
    verdict, evidence = verdicts(run)[statement]
    assert verdict is Verdict.fails
    assert evidence.startswith("True of 0 of 1 curves. a: largest distance 50 % at 4 sizes.")


def test_distances_from_the_exact_line_are_judged_together(tmp_path: Path) -> None:
    statement = "Measured means agree with the exact risk for finite n"
    columns = {"z": [1.0, -1.0, 0.5, None, -0.5, 1.0]}
    (tmp_path / "near").mkdir()
    verdict, evidence = verdicts(run_of(tmp_path / "near", curve(PEAKED, **columns)))[statement]
    assert verdict is Verdict.holds
    assert "root mean square 0.84 at 5 points" in evidence
    (tmp_path / "far").mkdir()
    columns = {"z": [3.0, -1.0, 0.5, None, -2.5, 1.0]}
    verdict, evidence = verdicts(run_of(tmp_path / "far", curve(PEAKED, **columns)))[statement]
    # Student's t of 19 degrees of freedom, two-sided, at 5 % over five points (tables: 2.861)
    assert verdict is Verdict.fails
    assert "2 of them are beyond 2. The largest is 3; chance alone stays below 2.9 in 19 of 20 runs" in evidence
    (tmp_path / "many").mkdir()
    many = [curve(PEAKED, label=str(number), **columns) for number in range(40)]
    assert verdicts(run_of(tmp_path / "many", *many))[statement][0] is Verdict.holds


def test_a_head_worse_than_zero_is_said_to_be(tmp_path: Path) -> None:
    run = run_of(tmp_path, curve(PEAKED, total=[1.01, 1.2, 4.0, 51.0, 1.5, 1.3], null=[1.0] * 6))
    verdict, evidence = verdicts(run)["At its best width a head predicts better than zero"]
    assert (verdict, "total risk 1.01 ± 0.02 at p = 20, of predicting zero 1" in evidence) == (Verdict.fails, True)


def test_classes_are_compared_with_a_constant_guess(tmp_path: Path) -> None:
    statement = "At its best width a head is right more often than the best constant guess"
    accuracy = {"accuracy": [0.7, 0.75, 0.6, 0.6, 0.7, 0.7], "s.e.": [0.004] * 6}
    for guess, expected in (
        (0.755, Verdict.fails),
        (0.6, Verdict.holds),
        (0.745, Verdict.fails),
        (None, Verdict.undecided),
    ):
        folder = tmp_path / str(guess)
        folder.mkdir()
        columns = curve(PEAKED, **accuracy, **{"constant accuracy": [guess] * 6})
        del columns["excess"]
        assert verdicts(run_of(folder, columns))[statement][0] is expected


def test_a_run_without_a_table_has_no_claims_and_says_why(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"num_train": 10}')
    run = RecordedRun(tmp_path, "run")
    found = findings(run)
    assert list(found.claims) == []
    assert any("table.parquet" in fault for fault in found.faults)
    assert any("summary.json" in fault for fault in run.faults)


def test_a_statement_says_what_the_run_found(tmp_path: Path) -> None:
    high = curve([10 * risk for risk in PEAKED], "high", null=[2.0] * 6, total=[1.0, 1.5, 4.0, 51.0, 1.5, 1.3])
    run = run_of(tmp_path, curve(PEAKED, null=[2.0] * 6, total=[0.5] * 6), high, problems=4, seed=3)
    found = statements(run)
    assert "Excess risk is highest where there are as many features as rows (p = n): found at gamma 1" in found
    assert "At its best width a head predicts better than zero: its total risk is 25 to 50 % of that of zero" in found
    for claim in findings(run).claims:
        assert claim.evidence.endswith(
            " 20 draws of the rows for each of 4 draws of the HMM, seed 3; ± is two standard errors."
        )


@pytest.mark.parametrize(
    ("problems", "replicates", "words"), [(1, 3, "3 draws of the rows"), (1, 0, "0 draws"), (2, 20, "each of 2 draws")]
)
def test_a_table_of_before_an_extension_is_described_by_its_own_draws(
    tmp_path: Path, problems: int, replicates: int, words: str
) -> None:
    run = run_of(tmp_path, curve(PEAKED, z=[1.0, -2.5, 0.5, None, -0.5, 1.0]), problems=4, seed=3)
    assert findings(run).faults == []
    write_draws(tmp_path, problems, replicates)
    found = findings(run)
    assert len(found.faults) == 1
    assert f"its table is of an earlier attempt, with {replicates} draws of the rows" in found.faults[0]
    assert words in found.faults[0]
    assert (found.design["draws of the rows"], found.design["draws of the HMM"]) == (str(replicates), str(problems))
    assert all(f" {replicates} draws of the rows" in claim.evidence for claim in found.claims) == (replicates > 0)
    assert not any("each of 4" in claim.evidence for claim in found.claims)


def test_curves_with_draws_of_their_own_are_counted_one_by_one(tmp_path: Path) -> None:
    run = run_of(tmp_path, curve(PEAKED), curves={"a": {}, "b": {"problems": 2}})
    rows = [("a", 0, draw) for draw in range(20)] + [("b", number % 2, number // 2) for number in range(40)]
    columns = zip(*rows, strict=True)
    names = ("curve", "problem", "replicate")
    table = {**dict(zip(names, map(list, columns), strict=True)), "gaussian_reference": [False] * len(rows)}
    pq.write_table(pa.table(table), tmp_path / "table.parquet")
    found = findings(run)
    assert found.faults == []
    assert found.design["draws of the HMM"] == "1 to 2"
    assert "20 draws of the rows for each of 1 to 2 draws of the HMM" in found.claims[0].evidence


def test_a_bias_below_p_equals_n_is_said(tmp_path: Path) -> None:
    statement = "Below p = n a head has no bias"
    for name, bias, expected in (("none", 1e-18, Verdict.holds), ("some", 0.3, Verdict.fails)):
        (tmp_path / name).mkdir()
        run = run_of(tmp_path / name, curve(PEAKED, bias=[0.0, bias, 0.0, 0.0, 0.5, 0.5]))
        verdict, evidence = verdicts(run)[statement]
        assert verdict is expected
        assert "an excess risk of " in evidence
    assert f"{statement}: at most 75 % of the excess risk" in statements(run)
    assert "at most 0.3 of an excess risk of 0.4 ± 0.02 (p = 50)" in evidence


def test_a_mean_that_single_draws_decide_is_said(tmp_path: Path) -> None:
    statement = "Outside gamma 0.9 to 1.12 the mean excess risk can be estimated, since no single draw decides it"
    near, far = ["mean", "mean", "mean", "median", "mean", "mean"], ["mean", "median", "mean", "median", "mean", "mean"]
    for name, kinds, expected in (("near", near, Verdict.holds), ("far", far, Verdict.fails)):
        (tmp_path / name).mkdir()
        verdict, evidence = verdicts(run_of(tmp_path / name, curve(PEAKED, summary=kinds)))[statement]
        assert verdict is expected
    assert "means at 4 of 6 sizes, medians at p = 50, 100" in evidence


def test_each_claim_has_the_figure_that_shows_it(tmp_path: Path) -> None:
    run = run_of(tmp_path, curve(PEAKED, bias=[0.0] * 6, null=[2.0] * 6, total=[0.5] * 6))
    for name in ("bias_variance", "total_risk"):
        (tmp_path / "figures" / f"{name}.png").write_bytes(b"")
    figures = {claim.statement.partition(":")[0]: claim.figure for claim in findings(run).claims}
    assert figures["Below p = n a head has no bias"] == "bias_variance"
    assert figures["At its best width a head predicts better than zero"] == "total_risk"
    assert set(figures.values()) == {"excess_risk", "bias_variance", "total_risk"}
