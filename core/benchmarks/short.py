"""What benchmarks with short free answers share: the prompt, and the answers that a row accepts."""

import ast

from lab.core.benchmarks.question import Mark, Question

_ASKED = "Answer the question using a single word or phrase."


def short_prompt(question: Question) -> str:
    """The question and a request for a word or phrase."""
    return f"{question.question}\n{_ASKED}"


def plain_prompt(question: Question) -> str:
    """The question alone."""
    return question.question


def accepted(question: Question) -> list[str]:
    """The answers in a row: one, or a list as Python writes it."""
    if question.answer.startswith("["):
        try:
            found = ast.literal_eval(question.answer)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return [question.answer]
        if isinstance(found, list):
            return [str(answer) for answer in found]
    return [question.answer]


def exact_mark(question: Question, prediction: str) -> Mark:
    """The share of the accepted answers that a text equals, apart from case and spaces around it."""
    answers = accepted(question)
    given = prediction.strip().lower()
    return Mark(hit=sum(answer.strip().lower() == given for answer in answers) / len(answers))


def no_guess(question: Question) -> Mark:
    """The mark of a random guess at a free answer."""
    return Mark(hit=0.0)


def check_answered(question: Question) -> str | None:
    """See `Benchmark.check`."""
    return None if question.answer and accepted(question) else "has no answer; give one in the column answer"
