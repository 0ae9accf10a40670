"""What a student is trained on: its head outputs against the teacher's, or its next-token distribution.

Every reduction is spelled out, since published losses differ by factors of thousands: mmMamba sums the divergence over
the positions of a sequence, so that 2 nats a token over 4,000 tokens read as 8,000.
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
        student: heads before the output projection.
        teacher: what they should be.
        mask: the positions that enter the mean; None for all.
    """
    wide = torch.promote_types(student.dtype, torch.float32)
    squared = (student.to(wide) - teacher.to(wide)).square()
    if mask is None:
        return squared.mean()
    by_position = squared.mean(dim=(1, 3))
    return (by_position * mask).sum() / mask.sum()


def kl_divergence(
    student: Float[Tensor, "n V"], teacher: Float[Tensor, "n V"], *, temperature: float = 1.0
) -> Float[Tensor, " n"]:
    """τ^2 KL(softmax(teacher / τ) || softmax(student / τ)) in nats at each position, summed over the vocabulary.

    The factor τ^2 keeps the size of the gradient (Hinton, Vinyals and Dean, arXiv 1503.02531). In float32 or better.
    """
    wide = torch.promote_types(student.dtype, torch.float32)
    log_student = functional.log_softmax(student.to(wide) / temperature, dim=-1)
    log_teacher = functional.log_softmax(teacher.to(wide) / temperature, dim=-1)
    return temperature**2 * (log_teacher.exp() * (log_teacher - log_student)).sum(dim=-1)


@dataclass(frozen=True, slots=True)
class Divergence:
    """Sums over positions, to be divided by what the reduction says.

    Attributes:
        kl: the divergence, over the mask's positions.
        cross_entropy: -log of the student's probability of the label, over positions that have one.
        num_masked: positions of the mask.
        num_labels: positions with a label.
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

    The backward pass computes a chunk's logits again instead of keeping them: two logarithms of T x V probabilities
    would take 6 GB at 8,192 tokens and InternLM2's vocabulary.

    Args:
        student_hidden: what the student's `logits` reads.
        teacher_hidden: what the teacher's `logits` reads; it gets no gradient.
        student_logits: scores of some positions.
        teacher_logits: scores of some positions.
        mask: the positions whose divergence is summed.
        targets: the label of each position's next token, or IGNORED.
        temperature: τ of the divergence.
        chunk_size: positions whose logits exist at one time.
    """
    is_used = mask | (targets != IGNORED)
    # hidden states of these positions alone: logits of the others are never computed
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
    """-log of the probability of each label, summed over those that are not IGNORED, in float32 or better."""
    wide = scores.to(torch.promote_types(scores.dtype, torch.float32))
    return functional.cross_entropy(wide, labels, ignore_index=IGNORED, reduction="sum")
