"""What benchmarks of multiple choice share: the prompt, and the mark of an answer."""

import re

from lab.core.benchmarks.extract import option_of
from lab.core.benchmarks.question import LETTERS, Mark, Question

_CHINESE = re.compile("[\u4e00-\u9fff]")


def choice_prompt(question: Question) -> str:
    """Hint, question, options and a request for a letter: the words that InternVL's models, HoVLE among them, know."""
    lines = [question.hint] if question.hint else []
    lines += [question.question, *(f"{letter}. {option}" for letter, option in question.options.items())]
    is_chinese = _CHINESE.search("\n".join(lines)) is not None
    if question.options:
        asked = (
            "请直接回答选项字母。" if is_chinese else "Answer with the option's letter from the given choices directly."
        )
    else:
        asked = "请直接回答问题。" if is_chinese else "Answer the question directly."
    return "\n".join([*lines, asked])


def choice_mark(question: Question, prediction: str) -> Mark:
    """1 if the answer names the right option, 0 otherwise and if that cannot be told."""
    return Mark(hit=float(option_of(prediction, question.options) == question.answer))


def choice_guess(question: Question) -> Mark:
    """The mark of an option that is drawn at random."""
    return Mark(hit=1 / len(question.options) if question.options else 0.0)


def check_choice(question: Question) -> str | None:
    """See `Benchmark.check`; the text of the right option may be one that pandas reads as missing, such as None."""
    if not question.options:
        return "has no options in the columns A, B, …; give some"
    if question.answer not in tuple(LETTERS):
        return f"has the answer {question.answer!r}, which is not a letter of an option; mend it"
    return None
