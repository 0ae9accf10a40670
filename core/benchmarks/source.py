"""What evaluations need of questions, wherever they come from."""

from collections.abc import Iterator, Mapping
from typing import Protocol

from PIL import Image

from lab.core.benchmarks.question import Question
from lab.core.benchmarks.spec import Benchmark


class QuestionSource(Protocol):
    """Questions in a fixed order.

    Attributes:
        benchmark: how they are asked and scored.
        name: of the data set.
        has_images: whether they are about images.
        num_left_out: those that are there but not asked.
        digest: of everything that they hold.
    """

    benchmark: Benchmark
    name: str
    has_images: bool
    num_left_out: int
    digest: str

    def __len__(self) -> int:
        """Number of questions that are asked."""
        ...

    def __getitem__(self, place: int) -> Question:
        """A question, without its images.

        Raises:
            InputError: if it cannot be read any more.
        """
        ...

    def with_images(self, place: int) -> tuple[Question, list[Image.Image]]:
        """A question and its images, read completely.

        Raises:
            InputError: naming the question, if an image is damaged.
        """
        ...

    def questions(self) -> Iterator[tuple[Question, Mapping[str, str]]]:
        """All questions, each with the cells of its row in a file, images left out."""
        ...
