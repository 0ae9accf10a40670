"""Losses against their definitions, and what they never keep in memory."""

from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from lab.core.data.chat_template import IGNORED
from lab.experiments.distill.losses import Divergence, divergence, kl_divergence, layer_mse


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


@given(st.integers(0, 1000), st.sampled_from([0.5, 1.0, 3.0]))
def test_the_divergence_is_zero_if_and_only_if_logits_agree_up_to_a_constant(seed: int, temperature: float) -> None:
    scores = draw(3, 7, seed=seed)
    shifted = scores + draw(3, 1, seed=seed + 1)
    other = scores + draw(3, 7, seed=seed + 2)
    assert kl_divergence(shifted, scores, temperature=temperature).abs().max() < 1e-12
    assert kl_divergence(other, scores, temperature=temperature).min() > 1e-6


def test_the_divergence_is_torchs_own() -> None:
    student, teacher = draw(6, 9), draw(6, 9, seed=1)
    for temperature in (1.0, 2.5):
        expected = nn.functional.kl_div(
            (student / temperature).log_softmax(-1), (teacher / temperature).softmax(-1), reduction="none"
        )
        ours = kl_divergence(student, teacher, temperature=temperature)
        torch.testing.assert_close(ours, temperature**2 * expected.sum(-1), rtol=1e-12, atol=1e-14)


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

    def divergence(self, chunk_size: int) -> Divergence:
        return divergence(
            self.ours,
            self.theirs,
            student_logits=lambda hidden: hidden @ self.student.T,
            teacher_logits=lambda hidden: hidden @ self.teacher.T,
            mask=self.mask,
            targets=self.targets,
            temperature=1.5,
            chunk_size=chunk_size,
        )


@pytest.mark.parametrize("chunk_size", [1, 4, 7, 1000])
def test_chunks_give_value_and_gradient_of_the_whole(chunk_size: int) -> None:
    heads = Heads()
    parts = heads.divergence(chunk_size)
    kl = kl_divergence(heads.ours @ heads.student.T, heads.theirs @ heads.teacher.T, temperature=1.5)
    expected_kl = kl[heads.mask].sum()
    has_label = heads.targets != IGNORED
    scores = (heads.ours @ heads.student.T)[has_label]
    expected_ce = nn.functional.cross_entropy(scores, heads.targets[has_label], reduction="sum")
    torch.testing.assert_close(parts.kl, expected_kl, rtol=1e-12, atol=0)
    torch.testing.assert_close(parts.cross_entropy, expected_ce, rtol=1e-12, atol=0)
    assert (parts.num_masked, parts.num_labels) == (13 + 9, 3)
    (ours,) = torch.autograd.grad(parts.kl_per_token + parts.cross_entropy_per_label, heads.ours)
    (whole,) = torch.autograd.grad(expected_kl / 22 + expected_ce / 3, heads.ours)
    torch.testing.assert_close(ours, whole, rtol=1e-10, atol=1e-14)


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
        heads.divergence(chunk_size).kl.backward()
    assert largest.numel == chunk_size * vocab_size
