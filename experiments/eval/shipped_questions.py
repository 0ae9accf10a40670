"""Held-out questions of the task that ships with the teacher, for generated answers: the first one of each scene."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import replace

from PIL import Image

from lab.core.benchmarks.question import Mark, Question
from lab.core.benchmarks.questions import BENCHMARK
from lab.core.data.prompt_format import IMAGE_MARK, PromptFormat
from lab.experiments.distill.tasks.picture_questions import (
    PictureQuestions,
    PictureQuestionsConfig,
    picture_questions_tokenizer,
)
from lab.experiments.distill.tasks.scenes import chance_by_kind

# the scenes are those of no run: evaluations of all runs ask the same
_SEED = 0


class ShippedQuestions:
    """See `QuestionSource`."""

    name = "picture_questions"
    has_images = True
    num_left_out = 0

    def __init__(self, number: int) -> None:
        """The first questions of so many scenes."""
        self._number = number
        self._scenes = PictureQuestions(
            PictureQuestionsConfig(),
            split="test",
            seed=_SEED,
            tokenizer=picture_questions_tokenizer(""),
            prompt_format=PromptFormat(),
        )
        chance = chance_by_kind()
        self.benchmark = replace(BENCHMARK, guess=lambda question: Mark(hit=chance[question.category]))
        words = "\0".join(f"{question.question}\0{question.answer}" for question, _ in self.questions())
        self.digest = hashlib.blake2b(words.encode(), digest_size=16).hexdigest()

    def __len__(self) -> int:
        return self._number

    def __getitem__(self, place: int) -> Question:
        scene = self._scenes.scene(place)
        first = scene.questions[0]
        return Question(
            index=str(place),
            question=f"{IMAGE_MARK}\n" * len(scene.shown) + first.text,
            answer=first.answer,
            options={},
            category=first.kind,
        )

    def with_images(self, place: int) -> tuple[Question, list[Image.Image]]:
        """See `QuestionSource.with_images`."""
        return self[place], self._scenes.pictures(place)

    def questions(self) -> Iterator[tuple[Question, Mapping[str, str]]]:
        """See `QuestionSource.questions`."""
        for place in range(self._number):
            question = self[place]
            names = ("index", "question", "answer", "category")
            yield question, {name: getattr(question, name) for name in names}
