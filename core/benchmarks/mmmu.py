"""MMMU (Yue et al., arXiv 2311.16502): multiple choice of college subjects, with several images, and open questions.

Where images belong, questions hold `<image 1>` and so on. An open question is scored as a choice between its answer and
`Other Answers`, as VLMEvalKit does it.
"""

from dataclasses import replace

from lab.core.benchmarks.accuracy import ACCURACY, count_hits, shares
from lab.core.benchmarks.choice import check_choice, choice_guess, choice_mark, choice_prompt
from lab.core.benchmarks.question import LETTERS, Mark, Question
from lab.core.benchmarks.spec import Benchmark


def _as_choice(question: Question) -> Question:
    options, answer = question.options, question.answer
    if "A" not in options:
        options = {**options, "A": answer, "B": "Other Answers"}
        options = {letter: options[letter] for letter in LETTERS if letter in options}
    return replace(question, options=options, answer=answer if answer in tuple(LETTERS) else "A")


def _mark(question: Question, prediction: str) -> Mark:
    return choice_mark(_as_choice(question), prediction)


def _check(question: Question) -> str | None:
    return check_choice(_as_choice(question)) if question.answer else "has no answer; give one in the column answer"


BENCHMARK = Benchmark(
    name="mmmu",
    summary="college subjects, multiple choice and open, with several images",
    files=("MMMU",),
    headlines=(f"{ACCURACY}, validation", ACCURACY),
    max_tiles=12,
    prompt=choice_prompt,
    mark=_mark,
    guess=choice_guess,
    count=count_hits,
    scores=shares,
    is_share=True,
    check=_check,
)
