"""The stages of a distillation: what each trains, on which loss, and from where (mmMamba, section 4).

1   what is new in every mixer, on the teacher's heads
2   the projections of queries, keys and values too, on the same target
3   the whole student from tokens to logits, on the teacher's next-token distribution; chosen layers are softmax again

In stages 1 and 2 every layer reads what the teacher's layer reads. A loss is computed and its gradient taken in one
call, so that a stage may free memory as it goes.
"""

# Letters: B batch, T tokens, D model width.

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch

from lab.core.data.batch import Batch
from lab.core.data.stream import Stream
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
from lab.experiments.distill.losses import divergence

Autocast = Callable[[], AbstractContextManager[None]]


class Objective(Protocol):
    """A loss whose gradient is taken where it is computed."""

    def __call__(self, batch: Batch, *, scale: float) -> dict[str, float]:
        """Add `scale` times the gradient of the loss to the trained tensors; none if `scale` is 0.

        Returns:
            `loss`, and what it is made of.
        """
        ...


@dataclass(frozen=True, slots=True)
class HeadOutputsObjective:
    """Stages 1 and 2: factor times the mean over layers of the mean squared error of the heads."""

    teacher: LanguageModel
    student: LanguageModel
    recipe: Recipe
    autocast: Autocast

    def __call__(self, batch: Batch, *, scale: float) -> dict[str, float]:
        """See `Objective`; every layer's graph is gone before the next begins."""
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
    """Stage 3: the divergence from the teacher's next-token distribution, and a share of the labels' cross-entropy."""

    teacher: LanguageModel
    student: LanguageModel
    recipe: Recipe
    autocast: Autocast

    def __call__(self, batch: Batch, *, scale: float) -> dict[str, float]:
        """See `Objective`; `kl_per_token` is the mean over the mask, whatever the loss is divided by."""
        recipe = self.recipe
        with torch.no_grad():
            theirs = hidden_states(self.teacher, batch)
        with torch.set_grad_enabled(scale != 0):
            with self.autocast():
                ours = hidden_states(self.student, batch)
            parts = divergence(
                ours,
                theirs,
                student_logits=self.student.logits,
                teacher_logits=self.teacher.logits,
                mask=loss_mask(batch, recipe.loss_mask),
                targets=next_tokens(batch),
                temperature=recipe.temperature,
                chunk_size=recipe.chunk_size,
            )
            is_by_token = recipe.reduction is Reduction.token
            loss = parts.kl_per_token if is_by_token else parts.kl / len(batch.llm_ids)
            if recipe.cross_entropy:
                loss = loss + recipe.cross_entropy * parts.cross_entropy_per_label
            if scale != 0:
                torch.autograd.backward(scale * loss)
        return {"loss": float(loss.detach()), "kl_per_token": float(parts.kl_per_token.detach())}


@dataclass(frozen=True, slots=True)
class AnswersObjective:
    """A new teacher: the mean cross-entropy of the answers' tokens."""

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
    """The loss of stage 1, 2 or 3."""
    made = LogitsObjective if stage == 3 else HeadOutputsObjective
    return made(teacher, student, recipe, autocast)


@dataclass(frozen=True, slots=True)
class BatchSource:
    """Batches for an objective: a stream for training, the same few for every validation."""

    objective: Objective
    stream: Stream
    held_out: Iterable[Batch]
    device: torch.device

    def step(self, *, scale: float) -> Mapping[str, float]:
        """Forward and backward of the next batch of the stream."""
        batch = self.stream.next_batch().to(self.device)
        return {**self.objective(batch, scale=scale), "tokens": int(batch.llm_lengths.sum())}

    def validate(self) -> float:
        """The mean loss of the held-out batches."""
        losses = [self.objective(batch.to(self.device), scale=0.0)["loss"] for batch in self.held_out]
        return sum(losses) / len(losses)


def autocast_of(recipe: Recipe | None, device: torch.device) -> Autocast:
    """The context in which a student computes."""
    is_enabled = recipe is not None and recipe.autocast
    return partial(torch.autocast, device.type, torch.bfloat16, enabled=is_enabled)
