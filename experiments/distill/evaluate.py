"""Evaluation on held-out data: how close a student is to its teacher, and how accurately each answers.

An answer is correct if each of its tokens, including the end of turn, is the most likely one after the question and the
preceding tokens of the answer. This is exactly when greedy decoding produces it, so one forward pass over many
questions replaces generation.
"""

# Letters: B batch, T tokens, D model width, V vocabulary, L layers.

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from lab.core.data.batch import Batch, count_right
from lab.core.divergence.rows import kl_divergence
from lab.core.models.decoder import LanguageModel
from lab.experiments.distill.baselines import Baseline
from lab.experiments.distill.loss_mask import LossMask, hidden_states, inputs_of, loss_mask
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
    near = _Nearness(student, teacher, chunk_size)
    with torch.no_grad():
        for number, batch in enumerate(batches, start=1):
            placed = batch.to(device)
            theirs = teacher.observed(inputs_of(teacher, placed), layers.add)
            assert theirs is not None, "every layer is looked at"
            with autocast():
                ours = hidden_states(student, placed)
            near.add(placed, ours, theirs)
            follow(number)
    result: ResultRow = {
        **near.result(),
        "relative_error": layers.mean_relative_error,
        "num_softmax": len(student.mixer_layers()) - len(student.converted_layers()),
    }
    return [*layers.rows(), *near.right.rows(), result]


def compare_baselines(
    baselines: Sequence[Baseline],
    batches: Iterable[Batch],
    *,
    device: torch.device,
    chunk_size: int,
    follow: Callable[[int], None],
) -> tuple[list[Evaluation], Counts]:
    """Compare baselines with the first of them, the teacher: by question type and overall.

    Args:
        baselines: the teacher first.
        batches: held-out data.
        device: of all models.
        chunk_size: number of positions whose logits are in memory at once.
        follow: called after each batch with the number of batches done.

    Returns:
        Rows of the kinds `accuracy` and `result`, and the teacher's counts.
    """
    teacher = baselines[0].model
    all_near = [_Nearness(baseline.model, teacher, chunk_size) for baseline in baselines]
    with torch.no_grad():
        for number, batch in enumerate(batches, start=1):
            placed = batch.to(device)
            theirs = hidden_states(teacher, placed)
            for baseline, near in zip(baselines, all_near, strict=True):
                is_teacher = baseline is baselines[0]
                ours = theirs if is_teacher else hidden_states(baseline.model, baseline.change(placed))
                near.add(placed, ours, theirs)
            follow(number)
    rows: list[Evaluation] = []
    for baseline, near in zip(baselines, all_near, strict=True):
        rows += [{**row, "model": baseline.name} for row in near.right.rows()]
        rows.append({**near.result(), "model": baseline.name})
    return rows, all_near[0].right


class _Nearness:
    """Over batches: how near a model's next tokens are to its teacher's, and which answers it gets right."""

    def __init__(self, model: LanguageModel, teacher: LanguageModel, chunk_size: int) -> None:
        self.right = Counts()
        self._model = model
        self._teacher = teacher
        self._chunk_size = chunk_size
        self._sums = dict.fromkeys(("kl", "agreeing", "tokens", "answer_kl", "answer_tokens"), 0.0)

    def add(self, batch: Batch, ours: Float[Tensor, "B T D"], theirs: Float[Tensor, "B T D"]) -> None:
        """Add a batch by the hidden states of both models."""
        sums = self._sums
        is_real, is_answer = loss_mask(batch, LossMask.non_padding), loss_mask(batch, LossMask.answers)
        predicted = torch.zeros_like(batch.llm_ids)
        for where in _chunks(is_real, self._chunk_size):
            scores, teacher_scores = self._model.logits(ours[where]), self._teacher.logits(theirs[where])
            chosen = scores.argmax(dim=-1)
            predicted[where] = chosen
            sums["agreeing"] += float((chosen == teacher_scores.argmax(dim=-1)).sum())
            kl = kl_divergence(scores, teacher_scores)
            sums["kl"] += float(kl.sum())
            sums["tokens"] += len(kl)
            sums["answer_kl"] += float(kl[is_answer[where]].sum())
            sums["answer_tokens"] += float(is_answer[where].sum())
        self.right.add(count_right(predicted, batch))

    def result(self) -> ResultRow:
        """All batches together."""
        sums = self._sums
        return {
            "kind": "result",
            "accuracy": self.right.accuracy,
            "kl_per_token": sums["kl"] / sums["tokens"],
            "kl_per_answer_token": sums["answer_kl"] / sums["answer_tokens"],
            "agreement": sums["agreeing"] / sums["tokens"],
        }


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
            ours = self._layers[index].layer.mixer.heads_of(u, None)
        self._error[index] += float((ours.double() - head_outputs.double()).square().sum())
        self._size[index] += float(head_outputs.double().square().sum())
        self._count[index] += head_outputs.numel()
        return True

    def rows(self) -> list[LayerRow]:
        """||student - teacher|| / ||teacher|| of each layer's head outputs, and their mean squared error.

        Where all of the teacher's are zero, the former is None.
        """
        return [
            {
                "kind": "layer",
                "layer": index,
                "name": layer.name,
                "relative_error": (self._error[index] / self._size[index]) ** 0.5 if self._size[index] else None,
                "layer_mse": self._error[index] / self._count[index],
            }
            for index, layer in self._layers.items()
        ]

    @property
    def mean_relative_error(self) -> float | None:
        """The mean over converted layers that have one; None if there is none."""
        errors = [row["relative_error"] for row in self.rows() if row["relative_error"] is not None]
        return sum(errors) / len(errors) if errors else None


def _chunks(is_wanted: Tensor, size: int) -> Iterator[tuple[Tensor, ...]]:
    """Indices of the selected positions, `size` at a time."""
    yield from zip(*(torch.split(part, size) for part in is_wanted.nonzero(as_tuple=True)), strict=True)
