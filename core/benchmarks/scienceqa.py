"""ScienceQA (Lu et al., arXiv 2209.09513), the questions with an image: multiple choice, some with a hint."""

from lab.core.benchmarks.accuracy import ACCURACY, count_hits, shares
from lab.core.benchmarks.choice import check_choice, choice_guess, choice_mark, choice_prompt
from lab.core.benchmarks.spec import Benchmark

BENCHMARK = Benchmark(
    name="scienceqa",
    summary="multiple choice with hints",
    files=("ScienceQA",),
    headlines=(ACCURACY,),
    prompt=choice_prompt,
    mark=choice_mark,
    guess=choice_guess,
    count=count_hits,
    scores=shares,
    is_share=True,
    check=check_choice,
)
