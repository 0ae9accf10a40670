"""Questions of your own with short answers: the question is asked as it stands, and the answer must match exactly."""

from lab.core.benchmarks.accuracy import ACCURACY, count_hits, shares
from lab.core.benchmarks.short import check_answered, exact_mark, no_guess, plain_prompt
from lab.core.benchmarks.spec import Benchmark

BENCHMARK = Benchmark(
    name="questions",
    summary="your own questions, asked as they stand; exact match",
    headlines=(ACCURACY,),
    prompt=plain_prompt,
    mark=exact_mark,
    guess=no_guess,
    count=count_hits,
    scores=shares,
    is_share=True,
    check=check_answered,
)
