"""The training objectives of the three stages (mmMamba, section 4), and of a new teacher.

1   the new parameters of every mixer, on the teacher's head outputs
2   the query, key and value projections too, on the same targets
3   the mixers end to end, on the teacher's next-token distribution; chosen layers are softmax attention again

In stages 1 and 2 every layer reads the teacher layer's input. Loss and gradient are computed in one call, so that an
objective can free memory along the way.
"""

# Letters: B batch, T tokens, D model width.

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch

from lab.core.data.bad_samples import LeftOut
from lab.core.data.batch import Batch
from lab.core.data.chat_template import IGNORED
from lab.core.data.stream import Batches
from lab.core.models.decoder import LanguageModel
from lab.experiments.distill.config import Recipe, Reduction
from lab.experiments.distill.layer_local import layer_local_backward
from lab.experiments.distill.loss_mask import (
    LossMask,
    hidden_states,
    inputs_of,
    layer_loss_mask,
    loss_mask,
    next_tokens,
)
from lab.experiments.distill.losses import Weights, divergence

Autocast = Callable[[], AbstractContextManager[None]]


class Objective(Protocol):
    """A loss that also accumulates its gradient."""

    def __call__(self, batch: Batch, *, scale: float) -> dict[str, float]:
        """Accumulate `scale` times the gradient of the loss in the trained tensors; none if `scale` is 0.

        Returns:
            `loss` and its components.
        """
        ...


@dataclass(frozen=True, slots=True)
class HeadOutputsObjective:
    """Stages 1 and 2: factor times the mean over layers of the mean squared error of the head outputs."""

    teacher: LanguageModel
    student: LanguageModel
    recipe: Recipe
    autocast: Autocast

    def __call__(self, batch: Batch, *, scale: float) -> dict[str, float]:
        """See `Objective`; every layer's graph is freed before the next layer."""
        mixers = {layer.index: layer.layer.mixer for layer in self.student.converted_layers()}
        factor = self.recipe.factor / len(mixers)
        errors = layer_local_backward(
            self.teacher,
            inputs_of(self.teacher, batch),
            mixers,
            scale=scale * factor,
            mask_of=partial(layer_loss_mask, batch, self.recipe.loss_mask),
            autocast=self.autocast,
        )
        return {"loss": factor * sum(errors.values())}


@dataclass(frozen=True, slots=True)
class LogitsObjective:
    """Stage 3: the divergence from the teacher's next-token distribution, plus weighted cross-entropy of the labels."""

    teacher: LanguageModel
    student: LanguageModel
    recipe: Recipe
    autocast: Autocast

    def __call__(self, batch: Batch, *, scale: float) -> dict[str, float]:
        """See `Objective`; `kl_per_token` is the mean over the mask, whatever the loss's reduction."""
        recipe = self.recipe
        with torch.no_grad():
            theirs = hidden_states(self.teacher, batch)
        with torch.set_grad_enabled(scale != 0):
            with self.autocast():
                ours = hidden_states(self.student, batch)
            mask, targets = loss_mask(batch, recipe.loss_mask), next_tokens(batch)
            is_by_token = recipe.reduction is Reduction.token
            parts = divergence(
                ours,
                theirs,
                student_logits=self.student.logits,
                teacher_logits=self.teacher.logits,
                mask=mask,
                targets=targets,
                weights=Weights(
                    kl=1 / max(int(mask.sum()) if is_by_token else len(batch.llm_lengths), 1),
                    cross_entropy=recipe.cross_entropy / max(int((targets != IGNORED).sum()), 1),
                ),
                temperature=recipe.temperature,
                chunk_size=recipe.chunk_size,
            )
            if scale != 0:
                torch.autograd.backward(scale * parts.loss)
        return {"loss": float(parts.loss.detach()), "kl_per_token": float(parts.kl_per_token)}


@dataclass(frozen=True, slots=True)
class AnswersObjective:
    """A new teacher: the mean cross-entropy of the answer tokens."""

    model: LanguageModel
    autocast: Autocast

    def __call__(self, batch: Batch, *, scale: float) -> dict[str, float]:
        """See `Objective`; logits of other positions are not computed."""
        targets = next_tokens(batch)
        is_answer = loss_mask(batch, LossMask.answers)
        with torch.set_grad_enabled(scale != 0):
            with self.autocast():
                scores = self.model.logits(hidden_states(self.model, batch)[is_answer])
            wide = scores.to(torch.promote_types(scores.dtype, torch.float32))
            loss = torch.nn.functional.cross_entropy(wide, targets[is_answer])
            if scale != 0:
                torch.autograd.backward(scale * loss)
        return {"loss": float(loss.detach())}


def objective_of(
    stage: int, *, teacher: LanguageModel, student: LanguageModel, recipe: Recipe, autocast: Autocast
) -> Objective:
    """The objective of stage 1, 2 or 3."""
    build = LogitsObjective if stage == 3 else HeadOutputsObjective
    return build(teacher, student, recipe, autocast)


@dataclass(frozen=True, slots=True)
class BatchSource:
    """Batches for an objective: a stream for training, the same batches for every validation.

    Attributes:
        objective: of the training.
        stream: where training batches come from.
        held_out: batches of a validation.
        device: of the model.
        note: told what was left out on the way to a batch, and whether that is a batch of the training.
    """

    objective: Objective
    stream: Batches
    held_out: Iterable[Batch]
    device: torch.device
    note: Callable[[Sequence[LeftOut], bool], None] = lambda left_out, is_training: None

    def step(self, *, scale: float) -> Mapping[str, float]:
        """Forward and backward of the next batch of the stream."""
        batch = self.stream.next_batch().to(self.device)
        self.note(batch.left_out, True)
        return {**self.objective(batch, scale=scale), "tokens": int(batch.llm_lengths.sum())}

    def validate(self) -> float:
        """The mean loss of the held-out batches."""
        losses = []
        for batch in self.held_out:
            self.note(batch.left_out, False)
            losses.append(self.objective(batch.to(self.device), scale=0.0)["loss"])
        return sum(losses) / len(losses)


def autocast_of(recipe: Recipe | None, device: torch.device) -> Autocast:
    """The autocast context of a student's forward pass."""
    is_enabled = recipe is not None and recipe.autocast
    return partial(torch.autocast, device.type, torch.bfloat16, enabled=is_enabled)
