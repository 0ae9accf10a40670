"""SEED-Bench (Li et al., arXiv 2307.16125), the part about images: multiple choice."""

from lab.core.benchmarks.accuracy import ACCURACY, count_hits, shares
from lab.core.benchmarks.choice import check_choice, choice_guess, choice_mark, choice_prompt
from lab.core.benchmarks.spec import Benchmark

BENCHMARK = Benchmark(
    name="seed_image",
    summary="multiple choice about images",
    files=("SEEDBench_IMG",),
    headlines=(ACCURACY,),
    prompt=choice_prompt,
    mark=choice_mark,
    guess=choice_guess,
    count=count_hits,
    scores=shares,
    is_share=True,
    check=check_choice,
)
