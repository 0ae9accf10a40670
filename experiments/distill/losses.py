"""Losses between student and teacher: of head outputs, and of next-token distributions.

Every reduction is explicit, since published losses differ by factors of thousands: mmMamba sums the divergence over the
positions of a sequence, so 2 nats per token over 4,000 tokens are reported as 8,000.
"""

# Letters: B batch, T tokens, H heads, P head_dim, n masked positions, D model width, V vocabulary.

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from lab.core.data.chat_template import IGNORED

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


def kl_divergence(
    student: Float[Tensor, "*positions V"], teacher: Float[Tensor, "*positions V"], *, temperature: float = 1.0
) -> Float[Tensor, "*positions"]:
    """τ^2 KL(softmax(teacher / τ) || softmax(student / τ)) in nats at each position, summed over the vocabulary.

    The factor τ^2 preserves the gradient scale (Hinton, Vinyals and Dean, arXiv 1503.02531). In float32 or better.
    """
    wide = torch.promote_types(student.dtype, torch.float32)
    log_student = functional.log_softmax(student.to(wide) / temperature, dim=-1)
    log_teacher = functional.log_softmax(teacher.to(wide) / temperature, dim=-1)
    return temperature**2 * (log_teacher.exp() * (log_teacher - log_student)).sum(dim=-1)


@dataclass(frozen=True, slots=True)
class Divergence:
    """Sums over positions, before the reduction's division.

    Attributes:
        kl: the divergence, over the mask's positions.
        cross_entropy: -log of the student's probability of the label, over positions with a label.
        num_masked: number of positions in the mask.
        num_labels: number of positions with a label.
    """

    kl: Float[Tensor, ""]
    cross_entropy: Float[Tensor, ""]
    num_masked: int
    num_labels: int

    @property
    def kl_per_token(self) -> Float[Tensor, ""]:
        """The mean over the mask's positions."""
        return self.kl / max(self.num_masked, 1)

    @property
    def cross_entropy_per_label(self) -> Float[Tensor, ""]:
        """The mean over positions with a label."""
        return self.cross_entropy / max(self.num_labels, 1)


def divergence(
    student_hidden: Float[Tensor, "B T D"],
    teacher_hidden: Float[Tensor, "B T D"],
    *,
    student_logits: Logits,
    teacher_logits: Logits,
    mask: Bool[Tensor, "B T"],
    targets: Int[Tensor, "B T"],
    temperature: float,
    chunk_size: int,
) -> Divergence:
    """Divergence and cross-entropy of two next-token distributions, computed for `chunk_size` positions at a time.

    The backward pass recomputes a chunk's logits instead of storing them: two T x V arrays of log-probabilities would
    take 6 GB at 8,192 tokens with InternLM2's vocabulary.

    Args:
        student_hidden: the student's hidden states before `logits`.
        teacher_hidden: the teacher's; they get no gradient.
        student_logits: maps hidden states of some positions to logits.
        teacher_logits: the same for the teacher.
        mask: the positions whose divergence is summed.
        targets: the label of each position's next token, or IGNORED.
        temperature: τ of the divergence.
        chunk_size: number of positions whose logits are in memory at once.
    """
    is_used = mask | (targets != IGNORED)
    # select the hidden states first, so that logits of other positions are never computed
    used = (x[is_used] for x in (student_hidden, teacher_hidden, mask, targets))
    parts = zip(*(torch.split(x, chunk_size) for x in used), strict=True)

    def sums(student: Tensor, teacher: Tensor, mask: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        scores = student_logits(student)
        with torch.no_grad():
            teacher_scores = teacher_logits(teacher)
        kl = (kl_divergence(scores, teacher_scores, temperature=temperature) * mask).sum()
        return kl, cross_entropy_sum(scores, labels)

    wide = torch.promote_types(student_hidden.dtype, torch.float32)
    kl_total = torch.zeros((), dtype=wide, device=student_hidden.device)
    cross_entropy_total = torch.zeros_like(kl_total)
    for part in parts:
        kl, cross_entropy = checkpoint(sums, *part, use_reentrant=False, preserve_rng_state=False)
        kl_total = kl_total + kl
        cross_entropy_total = cross_entropy_total + cross_entropy
    return Divergence(kl_total, cross_entropy_total, int(mask.sum()), int((targets != IGNORED).sum()))


def cross_entropy_sum(scores: Float[Tensor, "n V"], labels: Int[Tensor, " n"]) -> Float[Tensor, ""]:
    """Cross-entropy summed over the labels that are not IGNORED, in float32 or better."""
    wide = scores.to(torch.promote_types(scores.dtype, torch.float32))
    return functional.cross_entropy(wide, labels, ignore_index=IGNORED, reduction="sum")
