"""easy-VQA's held-out questions, from the package of that name.

    python -m lab.experiments.eval.easy_vqa FILE.tsv

writes them in VLMEvalKit's layout.
"""

import base64
import csv
import hashlib
import io
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from PIL import Image

from lab.core.benchmarks.question import Mark, Question
from lab.core.benchmarks.questions import BENCHMARK
from lab.core.data.tiling import load_image
from lab.core.errors import LabError
from lab.core.runs.atomic_files import file_atomically
from lab.core.streams import say
from lab.experiments.distill.tasks.easy_vqa import most_frequent_answers, questions_of


class EasyVqaQuestions:
    """See `QuestionSource`; a guess is the most frequent answer to the same wording in training."""

    name = "easy_vqa"
    has_images = True
    num_left_out = 0

    def __init__(self, number: int | None) -> None:
        """The first held-out questions; None: all.

        Raises:
            BackendError: if the package is not installed.
            InputError: if it lacks an image.
        """
        self._asked = questions_of("test")[:number]
        known = [(asked.text, asked.answer, asked.image) for asked in self._asked]
        self.digest = hashlib.blake2b(repr(known).encode(), digest_size=16).hexdigest()
        usual = most_frequent_answers()
        self.benchmark = replace(
            BENCHMARK, guess=lambda question: Mark(hit=float(usual.get(question.question) == question.answer))
        )

    def __len__(self) -> int:
        return len(self._asked)

    def __getitem__(self, place: int) -> Question:
        asked = self._asked[place]
        return Question(index=str(place), question=asked.text, answer=asked.answer, options={}, category=asked.kind)

    def with_images(self, place: int) -> tuple[Question, list[Image.Image]]:
        """See `QuestionSource.with_images`."""
        return self[place], [load_image(self._asked[place].path)]

    def questions(self) -> Iterator[tuple[Question, Mapping[str, str]]]:
        """See `QuestionSource.questions`."""
        for place, asked in enumerate(self._asked):
            question = self[place]
            cells = {"index": question.index, "question": question.question, "answer": question.answer}
            yield question, {**cells, "category": question.category, "image_path": str(asked.path)}


def write_tsv(path: Path) -> int:
    """Write all held-out questions with their images; an image that occurs again is the index of its first row.

    Returns:
        Their number.

    Raises:
        BackendError: if the package is not installed.
        InputError: if it lacks an image.
        RunError: if the file cannot be written.
    """
    first_rows: dict[int, int] = {}
    asked = questions_of("test")
    with file_atomically(path) as binary:
        text = io.TextIOWrapper(binary, encoding="utf-8", newline="", write_through=True)
        writer = csv.writer(text, delimiter="\t", lineterminator="\n")
        writer.writerow(["index", "image", "question", "answer", "category"])
        for index, one in enumerate(asked):
            first = first_rows.setdefault(one.image, index)
            image = base64.b64encode(one.path.read_bytes()).decode() if first == index else first
            writer.writerow([index, image, one.text, one.answer, one.kind])
        text.detach()
    return len(asked)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        say("usage: python -m lab.experiments.eval.easy_vqa FILE.tsv")
        sys.exit(2)
    try:
        print(f"{write_tsv(Path(sys.argv[1])):,} questions")
    except LabError as error:
        say(str(error))
        sys.exit(2)
