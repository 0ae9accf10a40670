"""From the words of a command to tasks."""

from pathlib import Path

from lab.core.benchmarks.file import open_file
from lab.core.benchmarks.spec import benchmark_of_file, benchmarks
from lab.core.errors import ConfigError
from lab.core.ranges import LARGEST_COUNT
from lab.experiments.eval.benchmark_task import BenchmarkTask
from lab.experiments.eval.config import EvalConfig
from lab.experiments.eval.easy_vqa import EasyVqaQuestions
from lab.experiments.eval.likelihood_task import LikelihoodTask
from lab.experiments.eval.shipped_questions import ShippedQuestions
from lab.experiments.eval.task import Task
from lab.experiments.eval.text_task import TextTask
from lab.experiments.eval.words import BUILT_IN, EASY_VQA, LIKELIHOOD, TEXT, TSV, has_kind

# with a standard error of one and a half points or less
_NUM_SHIPPED = 1024
# Python refuses to read numbers of thousands
_DIGITS = len(str(LARGEST_COUNT))


def open_task(word: str, config: EvalConfig) -> Task:
    """The task that a word names, with its files read through.

    Raises:
        ConfigError: if it names none.
        InputError: if a file is missing or wrong, with the row.
    """
    kind, colon, place = word.partition(":")
    if colon and kind == TEXT:
        return TextTask(word, place, config)
    if kind in BUILT_IN:
        if colon and not (place.isdecimal() and len(place) <= _DIGITS and 0 < int(place) <= LARGEST_COUNT):
            raise ConfigError(f"tasks={word}: the number of questions must be 1 or more, as in {kind}:1024")
        number = int(place) if colon else None
        source = EasyVqaQuestions(number) if kind == EASY_VQA else ShippedQuestions(number or _NUM_SHIPPED)
        return BenchmarkTask(word, source, config)
    if colon and kind == LIKELIHOOD:
        return LikelihoodTask(word, Path(place), config)
    if colon and kind in benchmarks():
        return BenchmarkTask(word, open_file(Path(place), benchmarks()[kind]), config)
    if word.endswith(TSV) and not has_kind(word):
        benchmark = benchmark_of_file(Path(word).name.removesuffix(TSV))
        return BenchmarkTask(word, open_file(Path(word), benchmark), config)
    known = ", ".join(f"{name}:FILE.tsv" for name in (*benchmarks(), LIKELIHOOD))
    raise ConfigError(f"tasks={word}: give a file as VLMEvalKit names it, such as POPE.tsv, or {known}, {TEXT}:PATH")
