"""Intervals over seeds against scipy's own, and the sentences that rank students."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from lab.experiments.distill.seeds import difference, estimate, rankings
from lab.experiments.distill.summary import Summary


def summary(label: str, *accuracies: float, kl: tuple[float, ...] = (), is_last: bool = True) -> Summary:
    return Summary(label, 3, is_last, 0, {"accuracy": list(accuracies), "kl_per_answer_token": list(kl)})


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=6))
def test_an_interval_is_student_s(values: list[float]) -> None:
    found = estimate(values)
    if np.ptp(values) > 1e-3:
        low, high = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
        assert found.mean == pytest.approx((low + high) / 2, abs=1e-9)
        assert found.half_width == pytest.approx((high - low) / 2, rel=1e-9)


def test_differences_are_paired() -> None:
    first, second = summary("a", 0.5, 0.7, 0.9), summary("b", 0.4, 0.61, 0.79)
    found = difference(first, second, "accuracy")
    test = stats.ttest_rel(first.values["accuracy"], second.values["accuracy"])
    low, high = test.confidence_interval(0.95)
    assert found.half_width is not None
    assert (found.mean - found.half_width, found.mean + found.half_width) == (pytest.approx(low), pytest.approx(high))
    assert found.excludes_zero is bool(test.pvalue < 0.05)


def test_one_seed_tells_nothing_apart() -> None:
    assert estimate([0.5]).half_width is None
    assert not difference(summary("a", 0.9), summary("b", 0.1), "accuracy").excludes_zero
    assert list(rankings([summary("a", 0.9), summary("b", 0.1)])) == []


def test_students_are_ranked_by_accuracy_and_divergence() -> None:
    best = summary("best", 0.90, 0.92, kl=(0.1, 0.12))
    near = summary("near", 0.90, 0.88, kl=(0.2, 0.22))
    far = summary("far", 0.2, 0.181, kl=(0.9, 0.92))
    earlier = summary("best", 0.1, 0.1, kl=(2.0, 2.0), is_last=False)
    by_accuracy, by_divergence = rankings([far, earlier, near, best])
    assert by_accuracy.startswith("accuracy in %: best (91) ~ near (89) > far (19.1); from first to last +72 ± ")
    assert by_divergence.startswith("KL in nats per answer token: best (0.11) < near (0.21) < far (0.91); from first")
    assert "paired over 2 seeds" in by_divergence
