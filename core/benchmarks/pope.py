"""POPE (Li et al., arXiv 2305.10355): is this object in the image? Objects are random, popular or adversarial.

Questions that are in several of the three subsets are one row with several categories. An answer that is neither yes
nor no is wrong, and counts as no for precision, recall and F1.
"""

from collections.abc import Sequence

import numpy as np

from lab.core.benchmarks.accuracy import add_share, ratio, shares
from lab.core.benchmarks.question import Answered
from lab.core.benchmarks.short import plain_prompt
from lab.core.benchmarks.spec import Benchmark, Counts, Scores, Totals
from lab.core.benchmarks.yes_no import check_yes_no, coin, yes_no_mark

_SUBSETS = ("adversarial", "popular", "random")
_YES = "yes rate"


def _count(cluster: Sequence[Answered]) -> Counts:
    counts: Counts = {}
    for answered in cluster:
        # a row of several subsets counts once in each, and that often in all
        for subset in answered.category.split(",") if answered.category else [""]:
            for part in ["", f", {subset}"] if subset else [""]:
                says_yes = answered.mark.says_yes
                add_share(counts, f"accuracy{part}", answered.mark.hit)
                add_share(counts, f"{_YES}{part}", says_yes)
                outcome = "true yes" if answered.is_yes else "false yes"
                missed = "false no" if answered.is_yes else "true no"
                for name, value in ((outcome, says_yes), (missed, 1 - says_yes)):
                    counts[name + part] = counts.get(name + part, 0.0) + value
    return counts


def _scores(totals: Totals) -> Scores:
    found = shares(totals)
    parts = [name.removeprefix("accuracy") for name in found if name.startswith("accuracy")]
    size = next(iter(totals.values())).shape
    nothing = np.zeros(size)
    for part in parts:
        true, false, missed = (totals.get(name + part, nothing) for name in ("true yes", "false yes", "false no"))
        # as in the official evaluation, 0 where nothing is found
        precision, recall = (np.nan_to_num(ratio(true, true + other)) for other in (false, missed))
        found[f"precision{part}"], found[f"recall{part}"] = 100 * precision, 100 * recall
        found[f"F1{part}"] = 100 * np.nan_to_num(ratio(2 * precision * recall, precision + recall))
    of_subsets = [found[f"F1, {subset}"] for subset in _SUBSETS if f"F1, {subset}" in found]
    if of_subsets:
        found["F1, mean of the subsets"] = np.mean(of_subsets, axis=0)
    return found


BENCHMARK = Benchmark(
    name="pope",
    summary="yes or no about objects; F1 of three subsets",
    files=("POPE",),
    columns=("answer", "category"),
    headlines=("F1, mean of the subsets", "F1"),
    prompt=plain_prompt,
    mark=yes_no_mark,
    guess=coin,
    count=_count,
    scores=_scores,
    check=check_yes_no,
)
