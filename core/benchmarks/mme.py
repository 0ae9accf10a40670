"""MME (Fu et al., arXiv 2306.13394): two questions an image, one with the answer yes and one with no.

A category scores 100 x (share of right answers + share of images with both answers right): 200 at most. Perception is
the sum of ten categories, cognition of four.
"""

from collections.abc import Sequence

import numpy as np

from lab.core.benchmarks.accuracy import add_share, shares
from lab.core.benchmarks.question import Answered, Question
from lab.core.benchmarks.spec import Benchmark, Counts, Scores, Totals
from lab.core.benchmarks.yes_no import check_yes_no, coin, yes_no_mark

_PERCEPTION = ["OCR", "artwork", "celebrity", "color", "count", "existence", "landmark", "position", "posters", "scene"]
_COGNITION = ["code_reasoning", "commonsense_reasoning", "numerical_calculation", "text_translation"]
_SINGLE, _BOTH = "accuracy, ", "accuracy+, "


def _prompt(question: Question) -> str:
    return f"{question.question} Answer the question using a single word or phrase."


def _cluster(question: Question) -> str:
    return f"{question.category}/{question.image_path}"


def _count(cluster: Sequence[Answered]) -> Counts:
    counts: Counts = {}
    for answered in cluster:
        add_share(counts, _SINGLE + answered.category, answered.mark.hit)
    if len(cluster) > 1:
        first, second, *_ = cluster
        add_share(counts, _BOTH + first.category, first.mark.hit * second.mark.hit)
    return counts


def _scores(totals: Totals) -> Scores:
    found = shares(totals)
    categories = [name.removeprefix(_SINGLE) for name in found if name.startswith(_SINGLE)]
    points = {name: found[_SINGLE + name] + found.get(_BOTH + name, np.nan) for name in categories}
    size = next(iter(totals.values())).shape

    def total(names: Sequence[str]) -> np.ndarray:
        return sum((points[name] for name in names if name in points), start=np.zeros(size))

    return {"perception": total(_PERCEPTION), "cognition": total(_COGNITION), **points, **found}


def _check(question: Question) -> str | None:
    if not question.category or not question.image_path:
        return "has no category or image_path, by which questions make pairs; give both"
    return check_yes_no(question)


BENCHMARK = Benchmark(
    name="mme",
    summary="pairs of yes and no; perception and cognition, in points",
    files=("MME",),
    columns=("answer", "category", "image_path"),
    headlines=("perception",),
    unit="points",
    prompt=_prompt,
    mark=yes_no_mark,
    guess=coin,
    cluster=_cluster,
    count=_count,
    scores=_scores,
    check=_check,
)
