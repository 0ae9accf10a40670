"""Recorded answers score what VLMEvalKit scores them; ten by hand."""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from lab.core.benchmarks.question import Answered, Question
from lab.core.benchmarks.rows import Rows
from lab.core.benchmarks.spec import Benchmark, benchmark_of_file, benchmarks
from lab.core.benchmarks.totals import counts_of, scores_of

GOLDEN = Path(__file__).parents[2] / "golden" / "benchmarks"
EXPECTED: Mapping[str, Mapping[str, Mapping[str, float]]] = json.loads((GOLDEN / "expected.json").read_text())


@cache
def scores(name: str) -> dict[str, float]:
    benchmark = benchmark_of_file(name)
    answered = [graded(benchmark, row) for _, row in Rows(GOLDEN / f"{name}.tsv")]
    assert len(answered) >= 200
    return scores_of(benchmark, counts_of(benchmark, answered))


def graded(benchmark: Benchmark, row: Mapping[str, str]) -> Answered:
    question = Question.of_row(row)
    return benchmark.answered(question, benchmark.grade(question, row["prediction"]))


def same(name: str, ours: Mapping[str, str], theirs: Mapping[str, float], factor: float = 1.0) -> None:
    assert len(ours) == len(theirs) > 0
    found = scores(name)
    for ours_name, theirs_name in ours.items():
        assert found[ours_name] == pytest.approx(factor * theirs[theirs_name], rel=1e-12), ours_name


def test_mme() -> None:
    theirs = EXPECTED["MME"]["0"]
    same("MME", {"cognition" if name == "reasoning" else name: name for name in theirs}, theirs)


def test_pope() -> None:
    for subset, theirs in EXPECTED["POPE"].items():
        part = "" if subset == "Overall" else f", {subset}"
        names = {"F1": "Overall", "accuracy": "acc", "precision": "precision", "recall": "recall"}
        same("POPE", {ours + part: name for ours, name in names.items()}, theirs)
    assert set(EXPECTED["POPE"]) == {"Overall", "adversarial", "popular", "random"}
    mean = np.mean([EXPECTED["POPE"][subset]["Overall"] for subset in ("adversarial", "popular", "random")])
    assert scores("POPE")["F1, mean of the subsets"] == pytest.approx(mean)


@pytest.mark.parametrize("name", ["MMBench_DEV_EN", "SEEDBench_IMG", "MMMU_DEV_VAL", "ScienceQA_TEST"])
def test_multiple_choice(name: str) -> None:
    for split, theirs in EXPECTED[name].items():
        part = "" if split == "none" else f", {split}"
        ours = {f"accuracy{part}": "Overall"}
        for label in theirs.keys() - {"Overall"}:
            group = "group " if label in ("perception", "reasoning") else ""
            ours[f"accuracy{part}, {group}{label}"] = label
        same(name, ours, theirs, factor=100)


@pytest.mark.parametrize("name", ["TextVQA_VAL", "GQA_TestDev_Balanced"])
def test_short_answers(name: str) -> None:
    theirs = EXPECTED[name]["0"]
    same(name, {"accuracy" if label == "Overall" else f"accuracy, {label}": label for label in theirs}, theirs)


def hits(benchmark: str, rows: list[tuple[str, str]]) -> list[float]:
    """What answers to right answers are worth."""
    spec = benchmarks()[benchmark]
    row = {"index": "1", "question": "?", "category": "random"}
    return [graded(spec, {**row, "answer": right, "prediction": said}).mark.hit for right, said in rows]


TEN_PEOPLE = repr(["two cats"] * 2 + ["2 cats"] * 2 + ["a dog", "Dog", "dogs", "none", "5,000", "5000"])


def test_textvqa_by_hand() -> None:
    # four say 2 cats: without one of them three are left, without another all four; 10 x 1 / 10
    said = ["2 cats", "Two cats.", "dog", "dogs", "0", "None", "", "5000", "5,000", "two, cats"]
    two_dogs = (2 * (1 / 3) + 8 * (2 / 3)) / 10
    one_of_ten = 9 * (1 / 3) / 10
    expected = [1, 1, two_dogs, one_of_ten, one_of_ten, 0, 0, two_dogs, two_dogs, 1]
    assert hits("textvqa", [(TEN_PEOPLE, word) for word in said]) == pytest.approx(expected)


def test_gqa_by_hand() -> None:
    rows = [("Car", "car"), ("car", " CAR "), ("car", "car."), ("car", "a car"), ("car", "cars"), ("left", "Left")]
    rows += [("left", ""), ("no", "No, it is not"), ("none", "none"), ("nan", "")]
    assert hits("gqa", rows) == [1, 1, 0, 0, 0, 1, 0, 0, 1, 0]


def test_pope_by_hand() -> None:
    said = ["Yes", "yes, there is", "No.", "no", "maybe", "yes and no", "", "Yes", "No", "NO"]
    right = ["Yes"] * 6 + ["No"] * 4
    assert hits("pope", list(zip(right, said, strict=True))) == [1, 1, 0, 0, 0, 0, 0, 0, 1, 1]
    spec = benchmarks()["pope"]
    rows = [
        {"index": str(place), "question": "?", "category": "random", "answer": answer, "prediction": text}
        for place, (answer, text) in enumerate(zip(right, said, strict=True))
    ]
    found = scores_of(spec, counts_of(spec, [graded(spec, row) for row in rows]))
    # two of six found, one of three called right
    assert found["precision"] == pytest.approx(100 * 2 / 3)
    assert found["recall"] == pytest.approx(100 * 2 / 6)
    assert found["F1"] == pytest.approx(100 * 2 * (2 / 3) * (1 / 3) / (2 / 3 + 1 / 3))
    assert found["accuracy"] == pytest.approx(40)
    assert found["yes rate"] == pytest.approx(30)
