"""What the table of a distillation bears out, and its map of errors."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lab.core.report.content import HeatMap, Verdict
from lab.core.report.recorded import RecordedRun
from lab.experiments.distill.claims import findings


def result(model: str, accuracy: float, **more: Any) -> dict[str, Any]:
    return {"kind": "result", "model": model, "accuracy": accuracy, **more}


def student(label: str, accuracies: tuple[float, ...], errors: dict[str, tuple[float, ...]]) -> list[dict[str, Any]]:
    """Rows of a student after stages 0 to 2, one replicate for each accuracy."""
    rows: list[dict[str, Any]] = []
    for replicate, accuracy in enumerate(accuracies):
        origin = {"student": label, "replicate": replicate}
        for stage in range(3):
            measured = {"kl_per_token": 0.5, "kl_per_answer_token": 0.1, "agreement": 0.5, "relative_error": 0.5}
            place = {**origin, "stage": stage, "is_last": stage == 2}
            rows.append(result("student", accuracy, num_softmax=0, **measured, **place))
            for name, by_stage in errors.items():
                layer = {"kind": "layer", "model": "student", "name": name, "relative_error": by_stage[stage]}
                rows.append({**layer, **place})
            rows += [
                {"kind": "validation", "model": "student", "step": step, "loss": 2.0 / (1 + step), **place}
                for step in (0, 5)
                if stage
            ]
    return rows


def run_of(folder: Path, *rows: dict[str, Any]) -> RecordedRun:
    columns = dict.fromkeys(name for row in rows for name in row)
    pq.write_table(pa.table({name: [row.get(name) for row in rows] for name in columns}), folder / "table.parquet")
    (folder / "config.json").write_text(json.dumps({"replicates": 2}))
    return RecordedRun(folder, "run")


BASELINES = (result("teacher", 0.9), result("chance", 0.1))
FALLING = {"llm.layers.0": (1.0, 0.8, 0.5), "llm.layers.1": (1.0, 0.9, 0.7)}


def test_students_near_their_teacher(tmp_path: Path) -> None:
    rising = {"llm.layers.0": (1.0, 0.8, 0.5), "llm.layers.1": (1.0, 0.9, 1.3)}
    run = run_of(tmp_path, *BASELINES, *student("near", (0.85, 0.87), FALLING), *student("far", (0.3, 0.32), rising))
    found = findings(run)
    kept, closer, different = found.claims
    assert kept.statement == "Students keep 90 % or more of their teacher's accuracy above chance"
    assert kept.verdict is Verdict.partly
    assert kept.evidence.startswith("near keeps 95.0 %: right in 86.0 ± 1.4 % (standard deviation of 2 seeds)")
    assert kept.evidence.endswith("1 of 2 students keep 90 %.")
    assert closer.verdict is Verdict.partly
    assert "3 of 4 layers; least in far, llm.layers.1, to 130 % of what it was" in closer.evidence
    assert different.statement == "near is the best of 2 students beyond what seeds explain"
    assert different.verdict is Verdict.holds
    # paired: 0.85 - 0.3 and 0.87 - 0.32
    assert "55.00 ± 0.00 points" in different.evidence


def test_students_that_differ_by_chance_only(tmp_path: Path) -> None:
    run = run_of(tmp_path, *BASELINES, *student("a", (0.5, 0.6), FALLING), *student("b", (0.5, 0.58), FALLING))
    verdicts = [claim.verdict for claim in findings(run).claims]
    assert verdicts == [Verdict.fails, Verdict.holds, Verdict.undecided]


def test_the_map_and_the_curves_hold_every_student(tmp_path: Path) -> None:
    run = run_of(tmp_path, *BASELINES, *student("a", (0.5,), FALLING), *student("b", (0.5,), FALLING))
    found = findings(run)
    (table,) = found.tables
    assert isinstance(table, HeatMap)
    assert list(table.columns) == ["student", "layer", "untrained", "stage 1", "stage 2"]
    assert table.rows[3] == ["b", "llm.layers.1", pytest.approx(1.0), pytest.approx(0.9), pytest.approx(0.7)]
    (picture,) = found.pictures
    assert picture.alt == "Loss by training step, one panel for each of 2 stages, 2 students"


def test_a_teacher_no_better_than_chance_decides_nothing(tmp_path: Path) -> None:
    run = run_of(tmp_path, result("teacher", 0.1), result("chance", 0.2), *student("", (0.5,), FALLING))
    assert findings(run).claims[0].verdict is Verdict.undecided


def test_a_run_without_a_table_says_so(tmp_path: Path) -> None:
    assert "table.parquet is not there" in next(iter(findings(RecordedRun(tmp_path, "run")).faults))
