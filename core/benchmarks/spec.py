"""What a benchmark is: which files hold it, how it asks, and how answers become scores.

Each benchmark is a module of this folder with a `BENCHMARK`, and is found by being there.
"""

# Letters: R resamples; a single total has shape (1,).

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

from jaxtyping import Float64
from numpy import ndarray

from lab.core.benchmarks.question import Answered, Mark, Question, as_read
from lab.core.errors import ConfigError
from lab.core.specs import specs_in

Counts = dict[str, float]
"""What the answers of a cluster add to totals, by name."""
Totals = Mapping[str, Float64[ndarray, " R"]]
"""Sums of counts over clusters."""
Scores = dict[str, Float64[ndarray, " R"]]
"""Scores by name; not a number where they are about nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """A benchmark.

    Scores are a function of sums over clusters of questions, so that an interval is a matter of drawing clusters again.

    Attributes:
        name: as it is typed.
        summary: what it asks, in a few words.
        files: beginnings of the names of the files that hold it, in the layout of VLMEvalKit.
        columns: of the file, needed besides index and question.
        headlines: names of scores; the first that a file has is the one to quote.
        unit: of the scores.
        max_tiles: of an image, as published for mmMamba's evaluation.
        prompt: the text for the model, without marks for images.
        mark: what an answer is worth; None if only a judge can tell.
        guess: the expected mark of a random guess.
        cluster: of a question: its rows are scored together.
        count: what a cluster adds.
        scores: from totals.
        is_share: whether the headline is the share of clusters answered correctly, so that it has a binomial interval.
        check: why a row cannot be scored, in words; None if it can.
    """

    name: str
    summary: str
    files: tuple[str, ...] = ()
    columns: tuple[str, ...] = ("answer",)
    headlines: tuple[str, ...]
    unit: str = "%"
    max_tiles: int = 6
    prompt: Callable[[Question], str]
    mark: Callable[[Question, str], Mark] | None
    guess: Callable[[Question], Mark]
    cluster: Callable[[Question], str] = field(default=lambda question: question.index)
    count: Callable[[Sequence[Answered]], Counts]
    scores: Callable[[Totals], Scores]
    is_share: bool = False
    check: Callable[[Question], str | None] = field(default=lambda question: None)

    def grade(self, question: Question, prediction: str) -> Mark:
        """What a prediction is worth, read as VLMEvalKit would read it from a file."""
        assert self.mark is not None, "others are for a judge"
        return self.mark(question, as_read(prediction))

    def answered(self, question: Question, mark: Mark) -> Answered:
        """What is kept of a question and the mark of its answer."""
        return Answered(
            cluster=self.cluster(question),
            index=question.index,
            category=question.category,
            l2_category=question.l2_category,
            split=question.split,
            is_first=self.cluster(question) == question.index,
            is_yes=question.answer == YES,
            mark=mark,
        )


YES, NO = "Yes", "No"


@cache
def benchmarks() -> dict[str, Benchmark]:
    """Every benchmark, by name."""
    return specs_in(["lab.core.benchmarks"], "BENCHMARK", Benchmark, key="name")


def benchmark_of_file(stem: str) -> Benchmark:
    """The benchmark that a file holds, by its name without the ending.

    Raises:
        ConfigError: if the name tells no benchmark.
    """
    fitting = [
        (len(start), benchmark)
        for benchmark in benchmarks().values()
        for start in benchmark.files
        if stem.startswith(start)
    ]
    if not fitting:
        raise ConfigError(
            f"{stem}.tsv: the name tells no benchmark; say which one, as in {next(iter(benchmarks()))}:{stem}.tsv, out "
            f"of {', '.join(benchmarks())}"
        )
    return max(fitting, key=lambda each: each[0])[1]
