"""Means over seeds against scipy, and which models are replicates of one student."""

from typing import Any

import numpy as np
import pytest
from scipy import stats

from lab.core.runs.figures import house_style
from lab.experiments.eval.figures import scores
from lab.experiments.eval.seeds import groups_of, is_mean, replicates, seed_rows, students_t


def test_students_interval_is_scipys() -> None:
    values = [61.5, 70.25, 66.0]
    low, high = students_t(values, 0.9)
    expected = stats.t.interval(0.9, df=2, loc=np.mean(values), scale=stats.sem(values))
    assert (low, high) == pytest.approx(expected, rel=1e-12)
    assert students_t([4.0, 4.0], 0.95) == (4.0, 4.0)


def test_replicates_differ_in_nothing_else() -> None:
    labels = ["run@3:linear:0", "run@3:linear:2", "run@2:linear:1", "run", "run@::0", "run@::1", "other@3:linear:0"]
    assert groups_of(labels) == {
        "run@3:linear:*": ["run@3:linear:0", "run@3:linear:2"],
        "run@::*": ["run@::0", "run@::1"],
    }


def row(model: str, value: float, **more: Any) -> Any:
    common = {"task": "t", "score": "accuracy", "unit": "%", "low": 0.0, "high": 100.0, "interval": "Wilson"}
    return {"kind": "score", "model": model, "value": value, "number": 50, "is_headline": True, **common, **more}


def test_replicates_stand_in_the_line_of_their_mean() -> None:
    seeds = ["run@3:linear:0", "run@3:linear:1"]
    mean = "run@3:linear:*, 2 seeds"
    assert replicates(["teacher", *seeds, mean]) == dict.fromkeys(seeds, mean)
    assert replicates(["teacher", *seeds]) == {}
    with house_style():
        drawn = scores([row("teacher", 70.0), row(seeds[0], 60.0), row(seeds[1], 66.0), row(mean, 63.0)])
    assert drawn is not None
    assert drawn.caption is not None
    (axes,) = drawn.figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["teacher", mean]
    assert "small dots are the seeds" in drawn.caption.text
    drawn.figure.canvas.draw()
    assert axes.get_window_extent().width > 0.4 * drawn.figure.bbox.width, "names leave room for the scores"


def test_every_score_that_all_replicates_have_gets_a_mean() -> None:
    labels = [f"run@3:linear:{seed}" for seed in range(3)]
    rows = [row(label, value) for label, value in zip(labels, (60.0, 66.0, 63.0), strict=True)]
    rows += [row(label, value, kind="recovered") for label, value in zip(labels, (80.0, 90.0, 85.0), strict=True)]
    # without a comparison for one of them, no mean
    rows += [row(label, 1.0, score="KL to the teacher") for label in labels[:2]]
    rows.append(row("teacher", 70.0))
    found = {one["kind"]: one for one in seed_rows(rows, [*labels, "teacher"], 0.95)}
    assert found.keys() == {"score", "recovered"}
    assert found["score"]["model"] == "run@3:linear:*, 3 seeds"
    assert found["score"]["value"] == pytest.approx(63)
    assert (found["score"]["low"], found["score"]["high"]) == pytest.approx(students_t([60, 66, 63], 0.95))
    assert (found["recovered"]["value"], found["recovered"]["number"]) == (pytest.approx(85), 3)
    assert found["recovered"]["interval"] == "Student's t over 3 seeds"
    assert all(map(is_mean, found.values()))
    assert not is_mean(rows[0])
