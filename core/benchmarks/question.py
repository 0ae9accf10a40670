"""Questions of a benchmark, and what is kept of an answered one."""

import string
from collections.abc import Mapping
from dataclasses import dataclass

LETTERS = string.ascii_uppercase
# What pandas reads as a missing cell. VLMEvalKit reads its files with pandas, so an option called None is not shown.
_MISSING = frozenset(
    [
        "",
        "#N/A",
        "#N/A N/A",
        "#NA",
        "-1.#IND",
        "-1.#QNAN",
        "-NaN",
        "-nan",
        "1.#IND",
        "1.#QNAN",
        "<NA>",
        "N/A",
        "NA",
        "NULL",
        "NaN",
        "None",
        "n/a",
        "nan",
        "null",
    ]
)


# what VLMEvalKit scores where an answer is missing
_NO_ANSWER = "nan"


def is_missing(cell: str) -> bool:
    """Whether a cell counts as empty for VLMEvalKit."""
    return cell in _MISSING


def as_read(prediction: str) -> str:
    """An answer as VLMEvalKit reads it from a file of predictions: an empty one, or `None`, is the text nan."""
    return _NO_ANSWER if is_missing(prediction) else prediction


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A row of a benchmark without its images; what the file does not have is empty.

    Attributes:
        index: of the row, unique in its file.
        question: the text.
        answer: the right one: a letter, a word, yes or no, or a list of accepted answers as Python writes it.
        options: texts by their letters, in the order of the letters.
        hint: text to read before the question.
        category: the skill that it tests.
        l2_category: the group of skills.
        split: such as `validation`.
        group: of rows that ask the same with rotated options, the index of the first one.
        image_path: the name of the image.
    """

    index: str
    question: str
    answer: str = ""
    options: Mapping[str, str]
    hint: str = ""
    category: str = ""
    l2_category: str = ""
    split: str = ""
    group: str = ""
    image_path: str = ""

    @classmethod
    def of_row(cls, row: Mapping[str, str]) -> "Question":
        """The question in a row of a file, by the names of its columns."""
        filled = {name: cell for name, cell in row.items() if not is_missing(cell)}
        return cls(
            index=row["index"],
            question=filled.get("question", ""),
            answer=filled.get("answer", ""),
            options={letter: filled[letter] for letter in LETTERS if letter in filled},
            hint=filled.get("hint", ""),
            category=filled.get("category", ""),
            l2_category=filled.get("l2-category", ""),
            split=filled.get("split", ""),
            group=filled.get("g_index", ""),
            image_path=filled.get("image_path", ""),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """What an answer is worth.

    Attributes:
        hit: from 0 (wrong) to 1 (right); of a guess, the expected value.
        says_yes: 1 if the answer is yes; of a guess, the probability of that. Of questions with yes or no.
    """

    hit: float
    says_yes: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """An answered question, as far as scores need it.

    Attributes:
        cluster: rows that are scored together, and drawn together when an interval is computed.
        index, category, l2_category, split: of the question.
        is_first: whether it is the first of its group of rotations.
        is_yes: whether the right answer is yes.
        mark: of the answer.
    """

    cluster: str
    index: str
    category: str
    l2_category: str
    split: str
    is_first: bool
    is_yes: bool
    mark: Mark
