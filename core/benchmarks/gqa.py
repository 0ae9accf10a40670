"""GQA (Hudson and Manning, arXiv 1902.09506): short answers about scenes, exactly as they are but for case."""

from lab.core.benchmarks.accuracy import ACCURACY, count_hits, shares
from lab.core.benchmarks.short import check_answered, exact_mark, no_guess, short_prompt
from lab.core.benchmarks.spec import Benchmark

BENCHMARK = Benchmark(
    name="gqa",
    summary="short answers about scenes; exact match",
    files=("GQA",),
    headlines=(ACCURACY,),
    prompt=short_prompt,
    mark=exact_mark,
    guess=no_guess,
    count=count_hits,
    scores=shares,
    is_share=True,
    check=check_answered,
)
