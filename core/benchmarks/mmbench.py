"""MMBench (Liu et al., arXiv 2307.06281): multiple choice, asked again with the options rotated.

A question counts as right if it is answered correctly in every rotation (circular evaluation). The rows of a question
have its index plus multiples of a million, or its index in the column g_index.
"""

from collections.abc import Sequence

from lab.core.benchmarks.accuracy import add_share, all_right, names, shares
from lab.core.benchmarks.choice import check_choice, choice_guess, choice_mark, choice_prompt
from lab.core.benchmarks.question import Answered, Question
from lab.core.benchmarks.spec import Benchmark, Counts

_ROTATION = 1_000_000
_PLAIN = "plain "
ROTATED = "plain, rotations too, "


def _cluster(question: Question) -> str:
    return question.group or str(int(question.index) % _ROTATION)


def _count(cluster: Sequence[Answered]) -> Counts:
    counts = all_right("")(cluster)
    for answered in cluster:
        for name in names(answered):
            if answered.is_first:
                add_share(counts, _PLAIN + name, answered.mark.hit)
            add_share(counts, ROTATED + name, answered.mark.hit)
    return counts


def _check(question: Question) -> str | None:
    if not question.index.isdecimal():
        return "has an index that is not a whole number, so that rotations cannot be found; give one"
    return check_choice(question)


BENCHMARK = Benchmark(
    name="mmbench",
    summary="multiple choice, right only in every rotation of the options",
    files=("MMBench",),
    headlines=("accuracy",),
    prompt=choice_prompt,
    mark=choice_mark,
    guess=choice_guess,
    cluster=_cluster,
    count=_count,
    scores=shares,
    is_share=True,
    check=_check,
)
