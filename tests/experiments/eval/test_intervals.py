"""Intervals: Wilson's against scipy, the bootstrap against its definition, and what is recovered."""

import math

import numpy as np
import pytest
from scipy.stats import binomtest

from lab.core.benchmarks.question import Answered, Mark
from lab.core.benchmarks.spec import Benchmark, benchmarks
from lab.core.benchmarks.totals import counts_of, resampled
from lab.experiments.eval.intervals import percentiles, recovered, scored, wilson
from lab.experiments.eval.task import Measured


@pytest.mark.parametrize("hits", [0, 1, 37, 99, 100])
@pytest.mark.parametrize("confidence", [0.68, 0.95])
def test_wilson(hits: int, confidence: float) -> None:
    expected = binomtest(hits, 100).proportion_ci(confidence, method="wilson")
    assert wilson(hits / 100, 100, confidence) == pytest.approx((expected.low, expected.high), abs=1e-12)


def answered(benchmark: Benchmark, hits: list[float], *, size: int = 1) -> list[Answered]:
    """Answers whose clusters have `size` rows each."""
    return [
        Answered(
            cluster=f"{place // size:04}",
            index=str(place),
            category="OCR",
            l2_category="",
            split="",
            is_first=place % size == 0,
            is_yes=place % 2 == 0,
            mark=Mark(hit=hit),
        )
        for place, hit in enumerate(hits)
    ]


def measured(name: str, hits: list[float], size: int = 1) -> Measured:
    benchmark = benchmarks()[name]
    counts = counts_of(benchmark, answered(benchmark, hits, size=size))
    return Measured(counts, benchmark.scores, benchmark.headlines, lambda name: "%", lambda name: False)


def test_the_bootstrap_scores_drawn_clusters_as_if_they_were_the_samples() -> None:
    hits = [float(hit) for hit in np.random.default_rng(0).integers(2, size=40)]
    one = measured("mme", hits, size=2)
    benchmark = benchmarks()["mme"]
    (weights,) = resampled(20, 5, np.random.default_rng(1))
    found = benchmark.scores(one.counts.totals(weights))["perception"]
    for number, drawn in enumerate(weights):
        again = [hit for cluster, times in enumerate(drawn) for _ in range(times) for hit in hits[2 * cluster :][:2]]
        expected = measured("mme", again, size=2)
        assert found[number] == pytest.approx(benchmark.scores(expected.counts.totals())["perception"][0])


def test_models_are_scored_on_the_same_draws() -> None:
    hits = [1.0, 0.0] * 25
    found = scored({"a": measured("gqa", hits), "b": measured("gqa", hits)}, num_resamples=200, seed=0, purpose="test")
    assert np.array_equal(found["a"].draws["accuracy"], found["b"].draws["accuracy"])
    # a paired difference of equal models is nothing, though each is uncertain
    low, high, how = found["a"].interval("accuracy", 0.95)
    assert how == "bootstrap"
    assert low is not None
    assert high is not None
    assert low < 45 < 55 < high


def test_the_bootstrap_of_a_share_is_near_its_binomial_interval() -> None:
    hits = [1.0] * 150 + [0.0] * 250
    found = scored({"a": measured("gqa", hits)}, num_resamples=4000, seed=0, purpose="test")["a"]
    low, high, _ = found.interval("accuracy", 0.95)
    assert (low, high) == pytest.approx(tuple(100 * end for end in wilson(150 / 400, 400, 0.95)), abs=0.6)


def test_recovery_is_the_share_above_chance() -> None:
    assert recovered([70.0, 25.0, 100.0], [85.0, 85.0, 85.0], 25.0).tolist() == pytest.approx([75, 0, 125])
    assert math.isnan(recovered([50.0], [25.0], 25.0)[0])
    assert percentiles(np.array([math.nan]), 0.95) == (None, None)
