"""A benchmark in a file: generated answers, and their divergence from the teacher's."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from lab.core.benchmarks.mmbench import ROTATED
from lab.core.benchmarks.placing import place_images
from lab.core.benchmarks.question import Answered, Mark, Question
from lab.core.benchmarks.source import QuestionSource
from lab.core.benchmarks.spec import Benchmark
from lab.core.benchmarks.totals import counts_of
from lab.core.data.prompt_format import IMAGE_MARK
from lab.core.errors import ConfigError, InputError, RunError
from lab.core.models.decoder import Inputs
from lab.core.tokenizer import Tokenizer
from lab.experiments.distill.load import FoundModel
from lab.experiments.eval.answering import Compared, Respondent, compared, followed_by
from lab.experiments.eval.config import EvalConfig
from lab.experiments.eval.divergence import divergence_of
from lab.experiments.eval.rows import AnswerRow
from lab.experiments.eval.task import Measured, Rows

# first questions whose words are looked up before anything is written
_CHECKED = 16


class BenchmarkTask:
    """See `Task`.

    Attributes:
        file: with the questions.
    """

    def __init__(self, word: str, file: QuestionSource, config: EvalConfig) -> None:
        self.word = word
        self.file = file
        self.digest = file.digest
        self.num_left_out = file.num_left_out
        self._config = config
        self._max_tiles = config.max_tiles or file.benchmark.max_tiles

    @property
    def benchmark(self) -> Benchmark:
        """The benchmark that the file holds."""
        return self.file.benchmark

    def refuse(self, found: FoundModel, label: str) -> None:
        """See `Task.refuse`."""
        refuse_words(self.file, found, self.word, label)

    def size(self, respondent: Respondent | None) -> int:
        """See `Task.size`."""
        return min(len(self.file), self._config.limit or len(self.file))

    def sample(self, place: int, respondent: Respondent, teacher: Respondent | None, earlier: Rows) -> AnswerRow:
        """See `Task.sample`: the answer, and its mark."""
        question, images = self.file.with_images(place)
        try:
            text, shown = place_images(self.benchmark.prompt(question), images)
            prompt = respondent.prompt(text, shown, max_tiles=self._max_tiles)
        except InputError as error:
            raise InputError(f"{self.word}: question {question.index}: {error}") from None
        answer = respondent.answer(prompt, self._config.max_new_tokens)
        mark = Mark(hit=0.0) if self.benchmark.mark is None else self.benchmark.grade(question, answer.text)
        kept = self.benchmark.answered(question, mark)
        row: AnswerRow = {
            "kind": "answer",
            "model": respondent.label,
            "task": self.word,
            "place": place,
            "index": kept.index,
            "cluster": kept.cluster,
            "category": kept.category,
            "l2_category": kept.l2_category,
            "split": kept.split,
            "is_first": kept.is_first,
            "is_yes": kept.is_yes,
            "prediction": answer.text,
            "stopped_at": answer.stopped_at,
            "end_token": answer.end_token,
            "num_prompt_tokens": answer.num_prompt_tokens,
            "num_new_tokens": len(answer.ids),
            "hit": mark.hit,
            "says_yes": mark.says_yes,
        }
        if respondent.label == self._config.against:
            row["answer_ids"] = list(answer.ids)
        if teacher is None:
            return row
        ids = _ids_of(earlier[place], teacher.label, self.word)
        reason = _not_compared(respondent, teacher, prompt, ids)
        if reason is not None:
            return {**row, "not_compared": reason}
        near = _compared(respondent, teacher, prompt, teacher.prompt(text, shown, max_tiles=self._max_tiles), ids)
        return {**row, "kl": near.kl, "agreeing": near.agreeing, "num_compared": near.num_compared}

    def measured(self, rows: Rows) -> list[Measured]:
        """See `Task.measured`."""
        answered = (
            Answered(
                cluster=row["cluster"],
                index=row["index"],
                category=row["category"],
                l2_category=row["l2_category"],
                split=row["split"],
                is_first=row["is_first"],
                is_yes=row["is_yes"],
                mark=Mark(hit=row["hit"], says_yes=row["says_yes"]),
            )
            for row in rows
        )
        of_answers = [] if self.benchmark.mark is None else [self._measured(answered)]
        return [*of_answers, *divergence_of(rows)]

    def chance(self) -> Measured | None:
        """See `Task.chance`."""
        if self.benchmark.mark is None:
            return None
        asked = self.file.questions()
        first = (question for (question, _), _ in zip(asked, range(self.size(None)), strict=False))
        return self._measured(self.benchmark.answered(question, self.benchmark.guess(question)) for question in first)

    def _measured(self, answered: Iterable[Answered]) -> Measured:
        benchmark = self.benchmark
        counts = counts_of(benchmark, answered)
        return Measured(
            counts,
            benchmark.scores,
            benchmark.headlines,
            lambda name: _unit(benchmark, name),
            # rotations of one question are not independent
            lambda name: benchmark.is_share and not name.startswith(ROTATED),
        )


def _unit(benchmark: Benchmark, name: str) -> str:
    """Points are sums of shares, all other scores are shares."""
    is_share = name.startswith(("accuracy", "plain", "yes rate", "precision", "recall", "F1"))
    return "%" if is_share else benchmark.unit


def _ids_of(row: Mapping[str, Any], teacher: str, word: str) -> Sequence[int]:
    """The tokens of an answer of the teacher: its text, encoded again, may be other ones.

    Raises:
        RunError: if they were not recorded.
    """
    if "answer_ids" not in row:
        raise RunError(
            f"{word}: the tokens of {teacher}'s answers, which others are compared over, are not in this run, which an "
            "earlier version of lab began; start a new one"
        )
    found: Sequence[int] = row["answer_ids"]
    return found


def _not_compared(respondent: Respondent, teacher: Respondent, prompt: Inputs, ids: Sequence[int]) -> str | None:
    """Why a model cannot be compared with its teacher over the tokens of an answer; None if it can."""
    if not ids:
        return "the teacher gave no answer"
    vision = teacher.opened.model.config.vision
    # an untrained model may answer with tokens that stand for images, which cannot be read without these
    if vision is not None and vision.image_token_id in ids:
        return "the teacher's answer has a token that stands for an image"
    if not respondent.can_read(prompt, ids):
        return "the question with the teacher's answer is longer than the model reads"
    return None


def _compared(
    respondent: Respondent, teacher: Respondent, ours: Inputs, theirs: Inputs, ids: Sequence[int]
) -> Compared:
    """How near the distributions over the tokens of the teacher's answer are."""
    our_scores, their_scores = (
        who.scores(followed_by(prompt, ids[:-1]), len(ids)) for who, prompt in ((respondent, ours), (teacher, theirs))
    )
    return compared(our_scores, their_scores)


def refuse_words(
    file: QuestionSource,
    found: FoundModel,
    word: str,
    label: str,
    encode_more: Callable[[Question, Tokenizer], object] = lambda question, tokenizer: None,
) -> None:
    """Refuse a model that sees no images where they are asked about, or does not know the words of the first questions.

    Args:
        file: with the questions.
        found: the model.
        word: the task as it was typed.
        label: of the model.
        encode_more: encodes what is not in the prompt; an InputError says that it cannot be.

    Raises:
        LabError: naming the question.
    """
    if file.has_images and found.architecture.vision is None:
        raise ConfigError(f"{word} asks about images, and {label} reads text only; leave one of them out")
    for place in range(min(_CHECKED, len(file))):
        question = file[place]
        try:
            found.tokenizer.encode(file.benchmark.prompt(question).replace(IMAGE_MARK, ""))
            encode_more(question, found.tokenizer)
        except InputError as error:
            raise InputError(f"{word}: question {question.index} for {label}: {error}") from None
