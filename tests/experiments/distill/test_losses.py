"""Losses against their definitions, and what they never keep in memory."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from lab.core.data.chat_template import IGNORED
from lab.experiments.distill.losses import Divergence, Weights, divergence, layer_mse


def draw(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_heads_loss_is_the_mean_over_the_mask_heads_and_channels() -> None:
    student, teacher = draw(2, 3, 4, 5), draw(2, 3, 4, 5, seed=1)
    mask = torch.tensor([[True, True, True, False], [True, False, False, False]])
    counted = [(student[b, :, t] - teacher[b, :, t]) ** 2 for b, t in mask.nonzero().tolist()]
    expected = torch.stack(counted).mean()
    torch.testing.assert_close(layer_mse(student, teacher, mask=mask), expected, rtol=1e-12, atol=0)
    everything = layer_mse(student, teacher, mask=None)
    torch.testing.assert_close(everything, ((student - teacher) ** 2).mean(), rtol=1e-12, atol=0)


def test_the_heads_loss_of_halves_is_summed_in_float32() -> None:
    student, teacher = draw(1, 2, 8, 4).bfloat16(), draw(1, 2, 8, 4, seed=1).bfloat16()
    loss = layer_mse(student, teacher, mask=None)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, (student.float() - teacher.float()).square().mean())


SUM = Weights(kl=1)


class Heads:
    """Two output heads over hidden states, and a batch with padding and answers."""

    def __init__(self, num_tokens: int = 13, vocab_size: int = 11) -> None:
        self.student = draw(vocab_size, 6, seed=1)
        self.teacher = draw(vocab_size, 6, seed=2)
        self.ours = draw(2, num_tokens, 6, seed=3).requires_grad_()
        self.theirs = draw(2, num_tokens, 6, seed=4)
        self.mask = torch.arange(num_tokens)[None] < torch.tensor([num_tokens, num_tokens - 4])[:, None]
        self.targets = torch.full((2, num_tokens), IGNORED)
        self.targets[0, 3:5] = torch.tensor([1, 2])
        self.targets[1, -1] = 5

    def divergence(self, chunk_size: int, weights: Weights = SUM) -> Divergence:
        return divergence(
            self.ours,
            self.theirs,
            student_logits=lambda hidden: hidden @ self.student.T,
            teacher_logits=lambda hidden: hidden @ self.teacher.T,
            mask=self.mask,
            targets=self.targets,
            weights=weights,
            temperature=1.5,
            chunk_size=chunk_size,
        )


@pytest.mark.parametrize("chunk_size", [1, 4, 7, 1000])
def test_chunks_give_value_and_gradient_of_the_whole(chunk_size: int) -> None:
    heads = Heads()
    parts = heads.divergence(chunk_size, Weights(kl=1 / 22, cross_entropy=1 / 3))
    target = (heads.theirs @ heads.teacher.T / 1.5).softmax(-1)
    log_student = (heads.ours @ heads.student.T / 1.5).log_softmax(-1)
    expected_kl = 1.5**2 * nn.functional.kl_div(log_student, target, reduction="none").sum(-1)[heads.mask].sum()
    has_label = heads.targets != IGNORED
    scores = (heads.ours @ heads.student.T)[has_label]
    expected_ce = nn.functional.cross_entropy(scores, heads.targets[has_label], reduction="sum")
    torch.testing.assert_close(parts.kl, expected_kl.detach(), rtol=1e-12, atol=0)
    torch.testing.assert_close(parts.cross_entropy, expected_ce.detach(), rtol=1e-12, atol=0)
    torch.testing.assert_close(parts.kl_per_token, expected_kl / 22, rtol=1e-12, atol=0)
    torch.testing.assert_close(parts.loss, expected_kl / 22 + expected_ce / 3, rtol=1e-12, atol=0)
    (ours,) = torch.autograd.grad(2 * parts.loss, heads.ours)
    (whole,) = torch.autograd.grad(2 * (expected_kl / 22 + expected_ce / 3), heads.ours)
    torch.testing.assert_close(ours, whole, rtol=1e-10, atol=1e-14)


def test_halves_get_a_gradient_in_their_precision() -> None:
    heads = Heads()
    exact = heads.divergence(5)
    (expected,) = torch.autograd.grad(exact.loss, heads.ours)
    for name in ("ours", "theirs", "student", "teacher"):
        setattr(heads, name, getattr(heads, name).detach().bfloat16().requires_grad_(name == "ours"))
    narrow = heads.divergence(5)
    (found,) = torch.autograd.grad(narrow.loss, heads.ours)
    assert (narrow.loss.dtype, found.dtype) == (torch.float32, torch.bfloat16)
    torch.testing.assert_close(narrow.loss.double(), exact.loss, rtol=0.02, atol=0)
    assert (found - expected).abs().max() < 0.05 * expected.abs().max()


def test_without_a_gradient_there_is_none() -> None:
    heads = Heads()
    with torch.no_grad():
        assert not heads.divergence(4).loss.requires_grad


class Largest(TorchDispatchMode):
    """Remembers the largest tensor that any operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, Tensor):
                self.numel = max(self.numel, tensor.numel())
        return out


def test_logits_of_all_positions_never_stand_in_memory() -> None:
    num_tokens, vocab_size, chunk_size = 64, 200, 8
    heads = Heads(num_tokens, vocab_size)
    with Largest() as largest:
        heads.divergence(chunk_size).loss.backward()
    assert largest.numel == chunk_size * vocab_size
