"""Shares of right answers: of all, and by split, group of skills and skill."""

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from lab.core.benchmarks.question import Answered
from lab.core.benchmarks.spec import Counts, Scores, Totals

ACCURACY = "accuracy"
_HITS, _NUMBER = "hits of ", "number of "


def count_hits(cluster: Sequence[Answered]) -> Counts:
    """Hits and answers, for every name of a share that they are about."""
    counts: Counts = {}
    for answered in cluster:
        for name in names(answered):
            add_share(counts, name, answered.mark.hit)
    return counts


def add_share(counts: Counts, name: str, hit: float) -> None:
    """Add one answer to the counts of a share."""
    counts[_HITS + name] = counts.get(_HITS + name, 0.0) + hit
    counts[_NUMBER + name] = counts.get(_NUMBER + name, 0.0) + 1


def shares(totals: Totals, *, factor: float = 100.0) -> Scores:
    """Every share that was counted, in per cent."""
    found: Scores = {}
    for name, number in totals.items():
        if name.startswith(_NUMBER):
            share = name.removeprefix(_NUMBER)
            found[share] = factor * ratio(totals[_HITS + share], number)
    return found


def number_of(totals: Totals, name: str) -> float:
    """How many answers a share is of."""
    return float(totals[_NUMBER + name][0])


def names(answered: Answered) -> Iterator[str]:
    """The shares that an answer belongs to: all, its split, and in that split its group of skills and its skill."""
    yield ACCURACY
    split = f", {answered.split}" if answered.split else ""
    if split:
        yield ACCURACY + split
    if answered.l2_category:
        yield f"{ACCURACY}{split}, group {answered.l2_category}"
    if answered.category:
        yield f"{ACCURACY}{split}, {answered.category}"


def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole, elementwise; not a number for 0 / 0."""
    return np.divide(part, whole, out=np.full(np.shape(whole), math.nan), where=np.asarray(whole) != 0)


def all_right(prefix: str) -> Callable[[Sequence[Answered]], Counts]:
    """Counts of clusters whose every answer is right; each stands for its first row."""

    def count(cluster: Sequence[Answered]) -> Counts:
        counts: Counts = {}
        for first in (answered for answered in cluster if answered.is_first):
            for name in names(first):
                add_share(counts, prefix + name, math.prod(answered.mark.hit for answered in cluster))
        return counts

    return count
