"""The problem of `lab bench distill`: one step of stage 1, its loss and gradients, at two sizes."""

# Letters: B batch, T tokens.

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import torch
from torch import Tensor

from lab.core.data.batch import Batch
from lab.core.data.chat_template import IGNORED
from lab.core.models.decoder import LanguageModel
from lab.core.runs.random_streams import Seeds
from lab.experiments.bench.accuracy import largest_difference
from lab.experiments.bench.architectures import architecture_of
from lab.experiments.bench.distill_recipe import RecipeStep, Scan, in_chunks
from lab.experiments.bench.teachers import PICTURES, picture_teacher, text_teacher
from lab.experiments.distill.config import Recipe
from lab.experiments.distill.data import Data, PromptConfig
from lab.experiments.distill.loss_mask import hidden_states
from lab.experiments.distill.objectives import HeadOutputsObjective, autocast_of
from lab.experiments.distill.student import StudentConfig, build_student, set_trainable, trainable_names

# loss, then gradients
Step = Callable[[], Sequence[Tensor]]

_CPU = torch.device("cpu")
# stage 1 computes no logits, so the size of the vocabulary does not matter
_VOCAB_SIZE = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSetting:
    """The teacher, and the size of the batch.

    Attributes:
        teacher: `hovle_2p6b`: layers of its language model, on random tokens; `hovle_tiny`: the whole model, on the
            built-in task.
        num_layers: of the language model.
        batch_size: B.
        num_tokens: T of random tokens; None if the task determines it.
    """

    teacher: str
    num_layers: int
    batch_size: int
    num_tokens: int | None = None

    def __str__(self) -> str:
        what = f"{self.num_tokens:,} random tokens" if self.num_tokens else "prompts of the built-in task"
        return (
            f"float32, widths of conf/teacher/{self.teacher}.yaml, {self.num_layers} layers of the language model, "
            f"batch {self.batch_size}, {what}; forward and backward, without the optimizer's step"
        )


@dataclass(frozen=True, slots=True)
class StageOne:
    """A teacher with random weights, its initialised student ready for stage 1, and a batch."""

    teacher: LanguageModel
    student: LanguageModel
    batch: Batch

    @classmethod
    def of(cls, setting: StepSetting) -> "StageOne":
        """Build the problem of a setting, in float32."""
        teacher, batch = _of_tokens(setting) if setting.num_tokens else _of_pictures(setting)
        student = build_student(teacher, StudentConfig(), seeds=Seeds(0))
        set_trainable(student, trainable_names(student, 1, train_decay=True))
        return cls(teacher, student, batch)

    def double(self) -> "StageOne":
        """The same numbers in float64."""
        teacher, student = (copy.deepcopy(model).double() for model in (self.teacher, self.student))
        return StageOne(teacher, student, replace(self.batch, pixel_values=self.batch.pixel_values.double()))

    @property
    def weights(self) -> list[Tensor]:
        """Tensors of teacher and student, shared ones once."""
        both = (*self.teacher.parameters(), *self.student.parameters())
        return list({tensor.data_ptr(): tensor for tensor in both}.values())

    def ours(self) -> Step:
        """As `lab distill stage=1` computes it."""
        objective = HeadOutputsObjective(self.teacher, self.student, Recipe(), autocast_of(None, _CPU))
        return lambda: self._with_gradients(objective(self.batch, scale=1.0)["loss"])

    def recipes(self, scan: Scan) -> Step:
        """As the public recipe computes it, with a state-space operator in torch."""
        step = RecipeStep(self.teacher, self.student, scan)
        forward = partial(hidden_states, batch=self.batch)
        return lambda: self._with_gradients(step(forward, factor=Recipe().factor))

    def _with_gradients(self, loss: float) -> list[Tensor]:
        """The loss and the gradients, which are cleared."""
        trained = [parameter for parameter in self.student.parameters() if parameter.requires_grad]
        found = [torch.tensor(loss, dtype=torch.float64)]
        for parameter in trained:
            assert parameter.grad is not None, "every trained parameter has a gradient"
            found.append(parameter.grad)
            parameter.grad = None
        return found


class Exact:
    """Loss and gradients in float64, computed on demand."""

    def __init__(self, problem: StageOne) -> None:
        self._problem = problem

    def difference(self, found: Sequence[Tensor]) -> float:
        """Largest difference of a step's results from the exact ones."""
        return largest_difference(found, self._step)

    @cached_property
    def _step(self) -> Sequence[Tensor]:
        return self._problem.double().recipes(in_chunks)()


def _of_tokens(setting: StepSetting) -> tuple[LanguageModel, Batch]:
    """A teacher of language model layers only."""
    generator = Seeds(0).torch("bench distill")
    widths = architecture_of(setting.teacher).decoders[-1]
    teacher = text_teacher(widths, num_layers=setting.num_layers, vocab_size=_VOCAB_SIZE, generator=generator)
    ids = torch.randint(_VOCAB_SIZE, (setting.batch_size, setting.num_tokens or 1), generator=generator)
    lengths = torch.full((setting.batch_size,), ids.shape[1])
    no_tiles = torch.empty(0, 3, 1, 1)
    return teacher, Batch(no_tiles, ids, ids, torch.full_like(ids, IGNORED), lengths, lengths, ())


def _of_pictures(setting: StepSetting) -> tuple[LanguageModel, Batch]:
    """The whole teacher, on the first prompts of its training."""
    teacher, tokenizer = picture_teacher(setting.teacher, setting.num_layers)
    data = Data(PICTURES, PromptConfig(), teacher.config, tokenizer, seed=0)
    return teacher, data.stream("bench distill", batch_size=setting.batch_size).next_batch()
