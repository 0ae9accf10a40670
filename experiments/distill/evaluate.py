"""Evaluation on held-out data: how close a student is to its teacher, and how accurately each answers.

An answer is correct if each of its tokens, including the end of turn, is the most likely one after the question and the
preceding tokens of the answer. This is exactly when greedy decoding produces it, so one forward pass over many
questions replaces generation.
"""

# Letters: B batch, T tokens, D model width, V vocabulary, L layers.

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lab.core.data.batch import Batch, count_right
from lab.core.models.decoder import LanguageModel
from lab.experiments.distill.loss_mask import LossMask, hidden_states, inputs_of, loss_mask
from lab.experiments.distill.losses import kl_divergence
from lab.experiments.distill.objectives import Autocast
from lab.experiments.distill.rows import AccuracyRow, Evaluation, LayerRow, ResultRow


@dataclass
class Counts:
    """Numbers of correct answers and of all answers, by question type."""

    by_kind: dict[str, tuple[int, int]] = field(default_factory=dict)

    def add(self, counts: dict[str, tuple[int, int]]) -> None:
        """Add the counts of a batch."""
        for kind, (right, total) in counts.items():
            known = self.by_kind.get(kind, (0, 0))
            self.by_kind[kind] = (known[0] + right, known[1] + total)

    @property
    def accuracy(self) -> float:
        """The fraction of correct answers; all answers have the same weight, whatever their type."""
        return sum(right for right, _ in self.by_kind.values()) / sum(total for _, total in self.by_kind.values())

    def rows(self) -> list[AccuracyRow]:
        """One row per question type."""
        return [
            {"kind": "accuracy", "question": kind, "right": right, "total": total, "accuracy": right / total}
            for kind, (right, total) in sorted(self.by_kind.items())
        ]


def answers_of(model: LanguageModel, batches: Iterable[Batch], *, device: torch.device, chunk_size: int) -> Counts:
    """Count the held-out questions that a model answers correctly."""
    counts = Counts()
    with torch.no_grad():
        for batch in batches:
            placed = batch.to(device)
            hidden = hidden_states(model, placed)
            counts.add(count_right(_greedy(model, hidden, chunk_size), placed))
    return counts


def compare(
    student: LanguageModel,
    teacher: LanguageModel,
    batches: Iterable[Batch],
    *,
    device: torch.device,
    autocast: Autocast,
    chunk_size: int,
    follow: Callable[[int], None],
) -> list[Evaluation]:
    """Compare a student with its teacher: by layer, by question type, and overall.

    Args:
        student: linear or hybrid.
        teacher: its teacher.
        batches: held-out data.
        device: of both models.
        autocast: context of the student's forward pass.
        chunk_size: number of positions whose logits are in memory at once.
        follow: called after each batch with the number of batches done.

    Returns:
        Rows of the kinds `layer`, `accuracy` and, last, `result`.
    """
    layers = _LayerErrors(student, autocast)
    right = Counts()
    sums = dict.fromkeys(("kl", "agreeing", "tokens", "answer_kl", "answer_tokens"), 0.0)
    with torch.no_grad():
        for number, batch in enumerate(batches, start=1):
            placed = batch.to(device)
            theirs = teacher.observed(inputs_of(teacher, placed), layers.add)
            assert theirs is not None, "every layer is looked at"
            with autocast():
                ours = hidden_states(student, placed)
            is_real, is_answer = loss_mask(placed, LossMask.non_padding), loss_mask(placed, LossMask.answers)
            predicted = torch.zeros_like(placed.llm_ids)
            for where in _chunks(is_real, chunk_size):
                scores, teacher_scores = student.logits(ours[where]), teacher.logits(theirs[where])
                kl = kl_divergence(scores, teacher_scores)
                chosen = scores.argmax(dim=-1)
                predicted[where] = chosen
                sums["kl"] += float(kl.sum())
                sums["agreeing"] += float((chosen == teacher_scores.argmax(dim=-1)).sum())
                sums["tokens"] += len(kl)
                sums["answer_kl"] += float(kl[is_answer[where]].sum())
                sums["answer_tokens"] += float(is_answer[where].sum())
            right.add(count_right(predicted, placed))
            follow(number)
    result: ResultRow = {
        "kind": "result",
        "accuracy": right.accuracy,
        "kl_per_token": sums["kl"] / sums["tokens"],
        "kl_per_answer_token": sums["answer_kl"] / sums["answer_tokens"],
        "agreement": sums["agreeing"] / sums["tokens"],
        "relative_error": layers.mean_relative_error,
        "num_softmax": len(student.mixer_layers()) - len(student.converted_layers()),
    }
    return [*layers.rows(), *right.rows(), result]


class _LayerErrors:
    """Sums of squares of each converted layer's error, on the teacher's inputs, over batches."""

    def __init__(self, student: LanguageModel, autocast: Autocast) -> None:
        self._layers = {layer.index: layer for layer in student.converted_layers()}
        self._autocast = autocast
        self._error = dict.fromkeys(self._layers, 0.0)
        self._size = dict.fromkeys(self._layers, 0.0)
        self._count = dict.fromkeys(self._layers, 0)

    def add(self, index: int, u: Float[Tensor, "B T D"], head_outputs: Float[Tensor, "B H T P"]) -> bool:
        if index not in self._layers:
            return True
        with self._autocast():
            ours = self._layers[index].layer.mixer.head_outputs(u)
        self._error[index] += float((ours.double() - head_outputs.double()).square().sum())
        self._size[index] += float(head_outputs.double().square().sum())
        self._count[index] += head_outputs.numel()
        return True

    def rows(self) -> list[LayerRow]:
        """||student - teacher|| / ||teacher|| of each layer's head outputs, and their mean squared error."""
        return [
            {
                "kind": "layer",
                "layer": index,
                "name": layer.name,
                "relative_error": (self._error[index] / self._size[index]) ** 0.5,
                "layer_mse": self._error[index] / self._count[index],
            }
            for index, layer in self._layers.items()
        ]

    @property
    def mean_relative_error(self) -> float | None:
        """The mean over converted layers; None if there is none."""
        errors = [row["relative_error"] for row in self.rows()]
        return sum(errors) / len(errors) if errors else None


def _chunks(is_wanted: Tensor, size: int) -> Iterator[tuple[Tensor, ...]]:
    """Indices of the selected positions, `size` at a time."""
    yield from zip(*(torch.split(part, size) for part in is_wanted.nonzero(as_tuple=True)), strict=True)


def _greedy(model: LanguageModel, hidden: Float[Tensor, "B T D"], chunk_size: int) -> Int[Tensor, "B T"]:
    """The most likely next token at every position."""
    parts = [model.logits(part).argmax(dim=-1) for part in torch.split(hidden.flatten(0, 1), chunk_size)]
    return torch.cat(parts).view(hidden.shape[:2])
