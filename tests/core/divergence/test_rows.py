"""Divergence and cross-entropy of rows of scores, compiled and in torch, against torch's own."""

from collections.abc import Callable

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from torch import Tensor
from torch.nn import functional

from lab.core.divergence import native, rows
from lab.core.divergence.rows import kl_divergence
from lab.core.errors import InputError

Rows = Callable[..., tuple[Tensor, Tensor]]

IMPLEMENTATIONS = pytest.mark.parametrize(
    "implementation",
    [
        pytest.param(native.rows, marks=pytest.mark.skipif(native.why_not() is not None, reason="no compiler")),
        rows.portable,
    ],
    ids=["native", "portable"],
)


def draw(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_autograd(
    student: Tensor, teacher: Tensor, labels: Tensor, weights: tuple[Tensor, Tensor], temperature: float
) -> list[Tensor]:
    scores = student.clone().requires_grad_()
    target = (teacher / temperature).softmax(-1)
    terms = functional.kl_div((scores / temperature).log_softmax(-1), target, reduction="none")
    kl = temperature**2 * terms.sum(-1)
    cross_entropy = functional.cross_entropy(scores, labels, ignore_index=-100, reduction="none")
    (gradient,) = torch.autograd.grad((weights[0] * kl + weights[1] * cross_entropy).sum(), scores)
    return [kl.detach(), cross_entropy.detach(), gradient]


@IMPLEMENTATIONS
@pytest.mark.parametrize("temperature", [1.0, 2.5, 0.3])
# around the sizes of vectors and of blocks of a sum
@pytest.mark.parametrize("vocabulary", [1, 7, 16, 33, 1024, 1031])
def test_values_and_gradient_are_torchs(implementation: Rows, vocabulary: int, temperature: float) -> None:
    student, teacher = 3 * draw(5, vocabulary), 3 * draw(5, vocabulary, seed=1)
    labels = torch.tensor([0, -100, vocabulary // 2, -100, vocabulary - 1])
    weights = torch.tensor([0.3, 0.2, 0.0, 1.0, 2.0]).double(), torch.tensor([1.0, 1.0, 0.5, 0.2, 0.1]).double()
    expected = by_autograd(student, teacher, labels, weights, temperature)
    for dtype, rtol, atol in ((torch.float64, 1e-12, 1e-13), (torch.float32, 1e-4, 3e-6)):
        # both are overwritten
        s, t = student.to(dtype, copy=True), teacher.to(dtype, copy=True)
        found = implementation(s, t, labels, tuple(x.to(dtype) for x in weights), temperature=temperature)
        for ours, theirs in zip((*found, s), expected, strict=True):
            torch.testing.assert_close(ours.double(), theirs, rtol=rtol, atol=atol)


@IMPLEMENTATIONS
def test_scores_of_any_size_overflow_nowhere(implementation: Rows) -> None:
    student = torch.tensor([[1e4, 0.0, -1e4], [3e4, 3e4, -3e4]])
    teacher = torch.tensor([[1e4, 0.0, -1e4], [-3e4, 3e4, 3e4]])
    none = torch.tensor([-1, -1])
    ones = torch.ones(2)
    kl, _ = implementation(student, teacher, none, (ones, ones), temperature=1.0)
    # half of the teacher's mass is where the student's log-probability is -60,000
    torch.testing.assert_close(kl, torch.tensor([0.0, 30000.0]), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(student[1], torch.tensor([0.5, 0.0, -0.5]), rtol=1e-6, atol=1e-6)


@IMPLEMENTATIONS
def test_no_number_is_not_hidden(implementation: Rows) -> None:
    student, teacher = torch.zeros(2, 40), torch.zeros(2, 40)
    student[0, 3] = float("nan")
    kl, _ = implementation(student, teacher, torch.tensor([-1, -1]), None, temperature=1.0)
    assert kl.isnan().tolist() == [True, False]


@pytest.mark.skipif(native.why_not() is not None, reason="no compiler")
def test_a_label_beyond_the_vocabulary_is_refused() -> None:
    with pytest.raises(InputError, match="labels hold 7 but must lie below the vocabulary's 7 tokens"):
        native.rows(draw(2, 7), draw(2, 7), torch.tensor([-100, 7]), None, temperature=1.0)


@pytest.mark.skipif(native.why_not() is not None, reason="no compiler")
def test_the_number_of_threads_changes_no_bit() -> None:
    student, teacher, labels = draw(9, 3000).float(), draw(9, 3000, seed=1).float(), torch.arange(9)
    weights = torch.ones(9), torch.ones(9)
    found = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            gradient = student.clone()
            found.append((*native.rows(gradient, teacher.clone(), labels, weights, temperature=2.0), gradient))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))


@given(st.integers(0, 1000), st.sampled_from([0.5, 1.0, 3.0]))
def test_the_divergence_is_zero_if_and_only_if_scores_agree_up_to_a_constant(seed: int, temperature: float) -> None:
    scores = draw(3, 7, seed=seed)
    shifted = scores + draw(3, 1, seed=seed + 1)
    other = scores + draw(3, 7, seed=seed + 2)
    assert kl_divergence(shifted, scores, temperature=temperature).abs().max() < 1e-12
    assert kl_divergence(other, scores, temperature=temperature).min() > 1e-6


def test_the_divergence_of_halves_is_in_float32_and_leaves_them() -> None:
    student, teacher = draw(4, 9).bfloat16(), draw(4, 9, seed=1).bfloat16()
    before = student.clone(), teacher.clone()
    kl = kl_divergence(student, teacher)
    assert kl.dtype == torch.float32
    expected = by_autograd(student.double(), teacher.double(), torch.full((4,), -100), (kl.double(),) * 2, 1.0)[0]
    torch.testing.assert_close(kl.double(), expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(student, before[0])
    assert torch.equal(teacher, before[1])
