"""Divergence, cross-entropy and their gradient, of rows of scores: compiled on a CPU, else in torch's operations."""

# Letters: R rows, V vocabulary.

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lab.core.divergence import native

_COMPILED = (torch.float32, torch.float64)


def kl_divergence(
    student: Float[Tensor, "R V"], teacher: Float[Tensor, "R V"], *, temperature: float = 1.0
) -> Float[Tensor, " R"]:
    """τ^2 KL(softmax(teacher / τ) || softmax(student / τ)) of each row in nats, in float32 or better."""
    wide = torch.promote_types(student.dtype, torch.float32)
    s, t = (x.to(wide, copy=True, memory_format=torch.contiguous_format) for x in (student, teacher))
    none = torch.full((len(student),), -1, device=student.device)
    return divergence_rows(s, t, none, None, temperature=temperature)[0]


def divergence_rows(
    student: Float[Tensor, "R V"],
    teacher: Float[Tensor, "R V"],
    labels: Int[Tensor, " R"],
    weights: tuple[Float[Tensor, " R"], Float[Tensor, " R"]] | None,
    *,
    temperature: float,
) -> tuple[Float[Tensor, " R"], Float[Tensor, " R"]]:
    """τ^2 KL(softmax(teacher / τ) || softmax(student / τ)) and -log softmax(student)[label] of each row, in nats.

    The factor τ^2 preserves the gradient scale (Hinton, Vinyals and Dean, arXiv 1503.02531).

    Args:
        student: scores in float32 or float64; **overwritten**, with weights by the gradient of
            sum(weights[0] * kl + weights[1] * cross_entropy).
        teacher: scores of the same dtype; **overwritten** by anything.
        labels: token of each row; a negative one, such as IGNORED: none.
        weights: of the two results in the gradient; None: no gradient is computed.
        temperature: τ.

    Returns:
        The divergence, and the cross-entropy, 0 without a label.
    """
    is_compiled = student.is_cpu and student.dtype in _COMPILED and student.is_contiguous() and teacher.is_contiguous()
    if is_compiled and native.why_not() is None:
        return native.rows(student, teacher, labels, weights, temperature=temperature)
    return portable(student, teacher, labels, weights, temperature=temperature)


def portable(
    student: Float[Tensor, "R V"],
    teacher: Float[Tensor, "R V"],
    labels: Int[Tensor, " R"],
    weights: tuple[Float[Tensor, " R"], Float[Tensor, " R"]] | None,
    *,
    temperature: float,
) -> tuple[Float[Tensor, " R"], Float[Tensor, " R"]]:
    """`divergence_rows` in torch's operations."""
    has_label, label = labels >= 0, labels.clamp(min=0)[:, None]
    log_student = torch.log_softmax(student / temperature, dim=-1)
    log_teacher = torch.log_softmax(teacher.div_(temperature), dim=-1)
    target = log_teacher.exp()
    kl = temperature**2 * (target * log_teacher.sub_(log_student)).sum(dim=-1)
    log_plain = log_student if temperature == 1 else torch.log_softmax(student, dim=-1)
    cross_entropy = torch.where(has_label, -log_plain.gather(1, label)[:, 0], 0.0)
    if weights is not None:
        kl_weight, label_weight = weights[0][:, None] * temperature, torch.where(has_label, weights[1], 0.0)[:, None]
        torch.sub(log_student.exp(), target, out=student)
        student.mul_(kl_weight).addcmul_(log_plain.exp(), label_weight)
        student.scatter_add_(1, label, -label_weight)
    return kl, cross_entropy
