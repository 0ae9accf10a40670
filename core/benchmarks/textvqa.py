"""TextVQA (Singh et al., arXiv 1904.08920): text in images; ten people answered each question.

Soft accuracy: an answer is worth min(1, n / 3), n of nine people having given it, averaged over the ten ways of leaving
one of them out, after VQA's normalisation.
"""

from lab.core.benchmarks.accuracy import ACCURACY, count_hits, shares
from lab.core.benchmarks.extract import short_answer
from lab.core.benchmarks.question import Mark, Question
from lab.core.benchmarks.short import accepted, check_answered, no_guess, short_prompt
from lab.core.benchmarks.spec import Benchmark

_ENOUGH = 3


def _mark(question: Question, prediction: str) -> Mark:
    answers = [short_answer(answer) for answer in accepted(question)]
    given = short_answer(prediction)
    number = answers.count(given)
    worth = sum(min(1.0, (number - (answer == given)) / _ENOUGH) for answer in answers)
    return Mark(hit=worth / len(answers))


BENCHMARK = Benchmark(
    name="textvqa",
    summary="text in images; soft accuracy over ten answers",
    files=("TextVQA",),
    headlines=(ACCURACY,),
    prompt=short_prompt,
    mark=_mark,
    guess=no_guess,
    count=count_hits,
    scores=shares,
    check=check_answered,
)
