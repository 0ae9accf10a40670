"""Multiple choice by likelihood: which option the model finds likeliest behind the question, without generating.

The question stands alone, without its options, in the model's chat format; each option is what the model would answer.
The logarithm of an option's probability is taken as it is, or divided by its number of bytes, since longer options are
less likely (as lm-evaluation-harness's `acc` and `acc_norm`).
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from lab.core.benchmarks.accuracy import ACCURACY, count_hits, shares
from lab.core.benchmarks.choice import check_choice, choice_guess
from lab.core.benchmarks.file import open_file
from lab.core.benchmarks.placing import place_images
from lab.core.benchmarks.question import Answered, Mark, Question
from lab.core.benchmarks.spec import Benchmark
from lab.core.benchmarks.totals import counts_of
from lab.core.errors import InputError
from lab.core.tokenizer import Tokenizer
from lab.experiments.distill.load import FoundModel
from lab.experiments.eval.answering import Respondent
from lab.experiments.eval.benchmark_task import refuse_words
from lab.experiments.eval.config import EvalConfig
from lab.experiments.eval.rows import ChoiceRow
from lab.experiments.eval.task import Measured, Rows

_PER_BYTE = f"{ACCURACY} per byte"


def _prompt(question: Question) -> str:
    return f"{question.hint}\n{question.question}" if question.hint else question.question


def _check(question: Question) -> str | None:
    blank = next((letter for letter, text in question.options.items() if not text.strip()), None)
    if blank is not None:
        return f"has only spaces in option {blank}; give it a text, or leave it empty"
    if question.answer in question.options:
        return None
    # an option that is not there is never the likeliest
    return check_choice(question) or f"has the answer {question.answer}, and no text of that option; give it one"


_LIKELIHOOD = Benchmark(
    name="likelihood",
    summary="multiple choice by likelihood",
    headlines=(ACCURACY,),
    prompt=_prompt,
    mark=None,
    guess=choice_guess,
    count=count_hits,
    scores=shares,
    is_share=True,
    check=_check,
)


class LikelihoodTask:
    """See `Task`."""

    def __init__(self, word: str, path: Path, config: EvalConfig) -> None:
        """Read through the file.

        Raises:
            InputError: naming the row that is wrong.
        """
        self.word = word
        self._file = open_file(path, _LIKELIHOOD)
        self.digest = self._file.digest
        self.num_left_out = self._file.num_left_out
        self._config = config

    def refuse(self, found: FoundModel, label: str) -> None:
        """See `Task.refuse`."""
        refuse_words(self._file, found, self.word, label, _encoded)

    def size(self, respondent: Respondent | None) -> int:
        """See `Task.size`."""
        return min(len(self._file), self._config.limit or len(self._file))

    def sample(self, place: int, respondent: Respondent, teacher: Respondent | None, earlier: Rows) -> ChoiceRow:
        """See `Task.sample`: the likelihood of every option."""
        question, images = self._file.with_images(place)
        try:
            text, shown = place_images(_prompt(question), images)
            max_tiles = self._config.max_tiles or _LIKELIHOOD.max_tiles
            prompt = respondent.prompt(text, shown, max_tiles=max_tiles)
            encoded = _encoded(question, respondent.opened.tokenizer)
        except InputError as error:
            raise InputError(f"{self._file.path}: question {question.index}: {error}") from None
        found: dict[str, float] = {}
        if all(respondent.can_read(prompt, ids) for ids in encoded.values()):
            found = {letter: respondent.log_likelihood(prompt, ids).value for letter, ids in encoded.items()}
        per_byte = {letter: value / len(question.options[letter].encode()) for letter, value in found.items()}
        return {
            "kind": "choice",
            "model": respondent.label,
            "task": self.word,
            "place": place,
            "index": question.index,
            "category": question.category,
            "l2_category": question.l2_category,
            "split": question.split,
            "hit": _hit(found, question),
            "hit_per_byte": _hit(per_byte, question),
            "log_likelihoods": list(found.values()),
        }

    def measured(self, rows: Rows) -> list[Measured]:
        """See `Task.measured`: as it is, then per byte."""
        return [_measured([_answered(row, hit) for row in rows], name) for hit, name in _METHODS]

    def chance(self) -> Measured | None:
        """See `Task.chance`."""
        asked = zip(self._file.questions(), range(self.size(None)), strict=False)
        return _measured([_LIKELIHOOD.answered(one, choice_guess(one)) for (one, _), _ in asked], ACCURACY)


def _encoded(question: Question, tokenizer: Tokenizer) -> dict[str, list[int]]:
    """The tokens of each option, by its letter.

    Raises:
        InputError: naming the option, if it cannot be encoded, or has none.
    """
    found = {}
    for letter, text in question.options.items():
        try:
            found[letter] = tokenizer.encode(text)
        except InputError as error:
            raise InputError(f"option {letter}: {error}") from None
        if not found[letter]:
            raise InputError(f"option {letter}, {text!r}, has no token in the model's vocabulary; give another text")
    return found


def _hit(values: Mapping[str, float], question: Question) -> float:
    """1 if the right option is the likeliest; 0 otherwise, and where the model could not read them."""
    return float(bool(values) and max(values, key=values.__getitem__) == question.answer)


_METHODS = (("hit", ACCURACY), ("hit_per_byte", _PER_BYTE))


def _answered(row: dict[str, object], hit: str) -> Answered:
    value = row[hit]
    assert isinstance(value, float), "a row of this kind"
    return Answered(
        cluster=str(row["index"]),
        index=str(row["index"]),
        category=str(row["category"]),
        l2_category=str(row["l2_category"]),
        split=str(row["split"]),
        is_first=True,
        is_yes=False,
        mark=Mark(hit=value),
    )


def _measured(answered: list[Answered], name: str) -> Measured:
    counts = counts_of(_LIKELIHOOD, answered)
    counts = replace(counts, names=tuple(count.replace(ACCURACY, name, 1) for count in counts.names))
    return Measured(counts, shares, (name,), lambda name: "%", lambda name: True)
