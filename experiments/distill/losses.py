"""Losses between student and teacher: of head outputs, and of next-token distributions.

Every reduction is explicit, since published losses differ by factors of thousands: mmMamba sums the divergence over the
positions of a sequence, so 2 nats per token over 4,000 tokens are reported as 8,000.
"""

# Letters: B batch, T tokens, H heads, P head_dim, n masked positions, D model width, V vocabulary.

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from lab.core.data.chat_template import IGNORED
from lab.core.divergence.rows import divergence_rows

Logits = Callable[[Tensor], Tensor]


def layer_mse(
    student: Float[Tensor, "B H T P"], teacher: Float[Tensor, "B H T P"], *, mask: Bool[Tensor, "B T"] | None
) -> Float[Tensor, ""]:
    """The mean over the mask's positions, heads and channels of (student - teacher)^2, in float32 or better.

    Args:
        student: head outputs, before the output projection.
        teacher: the targets.
        mask: the positions that enter the mean; None for all.
    """
    wide = torch.promote_types(student.dtype, torch.float32)
    squared = (student.to(wide) - teacher.to(wide)).square()
    if mask is None:
        return squared.mean()
    by_position = squared.mean(dim=(1, 3))
    return (by_position * mask).sum() / mask.sum()


@dataclass(frozen=True, slots=True)
class Weights:
    """Weights of the two sums in the loss.

    Attributes:
        kl: of the divergence summed over the mask.
        cross_entropy: of the cross-entropy summed over the labels.
    """

    kl: float
    cross_entropy: float = 0.0


@dataclass(frozen=True, slots=True)
class Divergence:
    """Sums over positions.

    Attributes:
        loss: the weighted sum; it alone can be differentiated.
        kl: the divergence, over the mask's positions.
        cross_entropy: -log of the student's probability of the label, over positions with a label.
        num_masked: number of positions in the mask.
    """

    loss: Float[Tensor, ""]
    kl: Float[Tensor, ""]
    cross_entropy: Float[Tensor, ""]
    num_masked: int

    @property
    def kl_per_token(self) -> Float[Tensor, ""]:
        """The mean over the mask's positions."""
        return self.kl / max(self.num_masked, 1)


def divergence(
    student_hidden: Float[Tensor, "B T D"],
    teacher_hidden: Float[Tensor, "B T D"],
    *,
    student_logits: Logits,
    teacher_logits: Logits,
    mask: Bool[Tensor, "B T"],
    targets: Int[Tensor, "B T"],
    weights: Weights,
    temperature: float,
    chunk_size: int,
) -> Divergence:
    """Divergence and cross-entropy of two next-token distributions, computed for `chunk_size` positions at a time.

    The gradient in the hidden states is computed with the value, while a chunk's logits are in memory: two T x V arrays
    of log-probabilities would take 6 GB at 8,192 tokens with InternLM2's vocabulary, and a second pass would compute
    all logits again.

    Args:
        student_hidden: the student's hidden states before `logits`.
        teacher_hidden: the teacher's; they get no gradient.
        student_logits: maps hidden states of some positions to logits; its weights get no gradient.
        teacher_logits: the same for the teacher.
        mask: the positions whose divergence is summed.
        targets: the label of each position's next token, or IGNORED.
        weights: of the two sums in the loss.
        temperature: τ of the divergence.
        chunk_size: number of positions whose logits are in memory at once.
    """
    is_used = mask | (targets != IGNORED)
    # select the hidden states first, so that logits of other positions are never computed
    student, teacher, masked, labels = (x[is_used] for x in (student_hidden, teacher_hidden, mask, targets))
    chunks = _Chunks(student_logits, teacher_logits, teacher.detach(), masked, labels, weights, temperature, chunk_size)
    loss, kl, cross_entropy = _DivergenceLoss.apply(student, chunks)  # type: ignore[no-untyped-call]
    return Divergence(loss, kl, cross_entropy, int(mask.sum()))


@dataclass(frozen=True, slots=True)
class _Chunks:
    """All but the student's hidden states, of the positions that are used."""

    student_logits: Logits
    teacher_logits: Logits
    teacher: Float[Tensor, "n D"]
    mask: Bool[Tensor, " n"]
    labels: Int[Tensor, " n"]
    weights: Weights
    temperature: float
    size: int

    def sums(self, student: Float[Tensor, "n D"], gradient: Float[Tensor, "n D"] | None) -> list[Tensor]:
        """The two sums; writes the loss's gradient in the hidden states."""
        wide = torch.promote_types(student.dtype, torch.float32)
        totals = [torch.zeros((), dtype=wide, device=student.device) for _ in range(2)]
        for start in range(0, len(student), self.size):
            chunk = slice(start, start + self.size)
            hidden = student[chunk].requires_grad_(gradient is not None)
            with torch.set_grad_enabled(gradient is not None):
                scores = self.student_logits(hidden)
            mask, labels = self.mask[chunk], self.labels[chunk]
            # logits may be a narrower dtype, a view, or what somebody else holds
            slopes = torch.empty_like(scores, dtype=wide, memory_format=torch.contiguous_format).copy_(scores.detach())
            with torch.no_grad():
                of_teacher = self.teacher_logits(self.teacher[chunk]).to(wide)
            kept = mask.to(wide)
            weights = self.weights.kl * kept, torch.full_like(kept, self.weights.cross_entropy)
            kl, cross_entropy = divergence_rows(
                slopes, of_teacher, labels, weights if gradient is not None else None, temperature=self.temperature
            )
            totals[0] += (kl * mask).sum()
            totals[1] += cross_entropy.sum()
            if gradient is not None:
                (gradient[chunk],) = torch.autograd.grad(scores, hidden, slopes.to(scores.dtype))
        return totals


class _DivergenceLoss(torch.autograd.Function):
    """The weighted sum and, not to be differentiated, both sums."""

    @staticmethod
    def forward(ctx: Any, student: Float[Tensor, "n D"], chunks: _Chunks) -> tuple[Tensor, Tensor, Tensor]:
        gradient = torch.empty_like(student) if ctx.needs_input_grad[0] else None
        kl, cross_entropy = chunks.sums(student.detach(), gradient)
        ctx.save_for_backward(gradient)
        ctx.mark_non_differentiable(kl, cross_entropy)
        return chunks.weights.kl * kl + chunks.weights.cross_entropy * cross_entropy, kl, cross_entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_loss: Float[Tensor, ""], *_: object) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * of_loss.to(gradient.dtype), None
