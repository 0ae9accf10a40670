"""MM-Vet (Yu et al., arXiv 2308.02490): open answers for a language model to judge. Predictions are not scored here."""

from lab.core.benchmarks.question import Mark, Question
from lab.core.benchmarks.short import plain_prompt
from lab.core.benchmarks.spec import Benchmark, Counts, Scores


def _no_guess(question: Question) -> Mark:
    return Mark(hit=0.0)


BENCHMARK = Benchmark(
    name="mm_vet",
    summary="open answers for a judge: written, not scored",
    files=("MMVet",),
    columns=(),
    headlines=(),
    prompt=plain_prompt,
    mark=None,
    guess=_no_guess,
    count=lambda cluster: Counts(),
    scores=lambda totals: Scores(),
)
