"""What benchmarks of yes and no share."""

from lab.core.benchmarks.extract import yes_or_no
from lab.core.benchmarks.question import Mark, Question
from lab.core.benchmarks.spec import NO, YES


def yes_no_mark(question: Question, prediction: str) -> Mark:
    """1 if the answer is the right one of yes and no; an answer that is neither is wrong, and does not say yes."""
    says_yes = yes_or_no(prediction)
    is_right = says_yes is not None and says_yes == (question.answer == YES)
    return Mark(hit=float(is_right), says_yes=float(says_yes is True))


def coin(question: Question) -> Mark:
    """The mark of yes or no, drawn with equal probability."""
    return Mark(hit=0.5, says_yes=0.5)


def check_yes_no(question: Question) -> str | None:
    """See `Benchmark.check`."""
    return None if question.answer in (YES, NO) else f"has the answer {question.answer!r}, not {YES} or {NO}; mend it"
