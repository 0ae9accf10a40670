"""From answered questions to scores: counts of each cluster, their sums, and the sums of drawn clusters."""

# Letters: C clusters, K counts, R resamples.

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64
from numpy import ndarray

from lab.core.benchmarks.question import Answered
from lab.core.benchmarks.spec import Benchmark, Counts, Totals


@dataclass(frozen=True, slots=True)
class ClusterCounts:
    """What each cluster adds to totals.

    Attributes:
        clusters: their names, sorted.
        names: of the counts, sorted.
        counts: by cluster and count.
    """

    clusters: tuple[str, ...]
    names: tuple[str, ...]
    counts: Float64[ndarray, "C K"]

    def totals(self, weights: Int64[ndarray, "R C"] | None = None) -> Totals:
        """Sums over clusters, each as often as its weight says; None: once."""
        sums = self.counts.sum(axis=0, keepdims=True) if weights is None else weights.astype(np.float64) @ self.counts
        return dict(zip(self.names, sums.T, strict=True))


def counts_of(benchmark: Benchmark, answered: Iterable[Answered]) -> ClusterCounts:
    """The counts of every cluster of answered questions."""
    clusters: dict[str, list[Answered]] = {}
    for each in answered:
        clusters.setdefault(each.cluster, []).append(each)
    return table_of({name: benchmark.count(members) for name, members in clusters.items()})


def table_of(counted: Mapping[str, Counts]) -> ClusterCounts:
    """The counts of clusters by name, as a table."""
    # in the order of the names: those of several models are paired
    clusters = tuple(sorted(counted))
    names = tuple(sorted({name for counts in counted.values() for name in counts}))
    places = {name: place for place, name in enumerate(names)}
    table = np.zeros((len(clusters), len(names)))
    for row, cluster in zip(table, clusters, strict=True):
        for name, value in counted[cluster].items():
            row[places[name]] = value
    return ClusterCounts(clusters, names, table)


def scores_of(benchmark: Benchmark, counts: ClusterCounts) -> dict[str, float]:
    """All scores, by name, in the benchmark's unit."""
    return {name: float(values[0]) for name, values in benchmark.scores(counts.totals()).items()}


def resampled(num_clusters: int, num_resamples: int, generator: np.random.Generator) -> Iterator[Int64[ndarray, "R C"]]:
    """How often each cluster is drawn in bootstrap resamples, some resamples at a time."""
    at_a_time = max(1, 2**22 // num_clusters)
    for start in range(0, num_resamples, at_a_time):
        size = min(at_a_time, num_resamples - start)
        yield generator.multinomial(num_clusters, np.full(num_clusters, 1 / num_clusters), size=size)
