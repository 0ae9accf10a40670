"""Every implementation of the operator multiplies by the mixing matrix, which is written out in tests/reference."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lab.core.ssd import SsdOutput, ssd
from reference.mixing_matrix import mixing_matrix

Operator = Callable[..., SsdOutput]


def draw(num_tokens: int, *, num_groups: int = 2, num_batch: int = 2) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(num_tokens)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    return {
        "x": normal(num_batch, num_tokens, 4, 3),
        "dt": 0.3 * normal(num_batch, num_tokens, 4).exp(),
        "A": -normal(4).exp(),
        "B": normal(num_batch, num_tokens, num_groups, 5),
        "C": normal(num_batch, num_tokens, num_groups, 5),
    }


def outputs(tensors: dict[str, Tensor], **options: Tensor) -> Tensor:
    matrix = mixing_matrix(*(tensors[name] for name in ("dt", "A", "B", "C")), **options)
    return torch.einsum("bhts,bshp->bthp", matrix, tensors["x"])


def error(run: Operator, tensors: dict[str, Tensor], **options: Tensor) -> Tensor:
    """Largest distance of y from M x, as a share of the largest output."""
    exact = outputs(tensors, **options)
    return (run(**tensors, **options).y - exact).abs().max() / exact.abs().max()


def token_by_token(**tensors: Tensor) -> SsdOutput:
    return ssd(**tensors, backend="reference")


@pytest.mark.parametrize("num_groups", [1, 2, 4])
@pytest.mark.parametrize("num_tokens", [1, 2, 17, 65])
def test_outputs_are_the_matrix_times_the_inputs(operator: Operator, num_tokens: int, num_groups: int) -> None:
    tensors = draw(num_tokens, num_groups=num_groups)
    for run in (token_by_token, operator):
        assert error(run, tensors) <= 1e-12


def test_the_skip_connection_is_on_the_diagonal(operator: Operator) -> None:
    weights = torch.linspace(-1.0, 2.0, 4, dtype=torch.float64)
    for run in (token_by_token, operator):
        assert error(run, draw(9), D=weights) <= 1e-12


def test_packed_sequences_make_a_block_diagonal_matrix(operator: Operator) -> None:
    starts = torch.tensor([0, 4, 5, 5, 70])
    for run in (token_by_token, operator):
        assert error(run, draw(70, num_batch=1), cu_seqlens=starts) <= 1e-12


def test_long_memory_loses_no_digits(operator: Operator) -> None:
    # a running sum of dt reaches 1e6 before the steps that matter, so its differences would keep 10 digits
    tensors = draw(40)
    tensors["dt"][:, :20] = 5e4
    for run in (token_by_token, operator):
        exact, found = outputs(tensors)[:, 20:], run(**tensors).y[:, 20:]
        assert (found - exact).abs().max() <= 1e-12 * exact.abs().max()
