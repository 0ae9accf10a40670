"""The mixing matrix and the scan form agree with the recurrence, which is written out here once more."""

# Letters: B batch, T tokens, H heads, G groups, P head_dim, N state_dim.

import itertools
from typing import NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import Float
from torch import Tensor

from lab.core.errors import InputError
from lab.core.ssd.mixing import mixing_matrix, ssd_by_scan

TOLERANCE = 1e-12


class Problem(NamedTuple):
    x: Float[Tensor, "B T H P"]
    dt: Float[Tensor, "B T H"]
    A: Float[Tensor, " H"]
    B: Float[Tensor, "B T G N"]
    C: Float[Tensor, "B T G N"]


def problem(num_tokens: int, *, num_heads: int = 4, num_groups: int = 2, num_batch: int = 2, seed: int = 0) -> Problem:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    return Problem(
        x=normal(num_batch, num_tokens, num_heads, 3),
        dt=0.3 * normal(num_batch, num_tokens, num_heads).exp(),
        A=-normal(num_heads).exp(),
        B=normal(num_batch, num_tokens, num_groups, 5),
        C=normal(num_batch, num_tokens, num_groups, 5),
    )


def recurrence(given: Problem, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
    x, dt, A, B, C = given
    heads_per_group = x.shape[2] // B.shape[2]
    B, C = (tensor.repeat_interleave(heads_per_group, dim=2) for tensor in (B, C))
    state = torch.zeros(x.shape[0], *x.shape[2:], B.shape[3], dtype=x.dtype) if state is None else state
    outputs = []
    for t in range(x.shape[1]):
        decay = torch.exp(dt[:, t] * A)[..., None, None]
        state = decay * state + (dt[:, t, :, None] * x[:, t])[..., None] * B[:, t, :, None, :]
        outputs.append((state * C[:, t, :, None, :]).sum(dim=-1))
    return torch.stack(outputs, dim=1), state


def relative(found: Tensor, exact: Tensor) -> float:
    return float((found - exact).abs().max() / exact.abs().max())


def apply(matrix: Float[Tensor, "B H T T"], x: Float[Tensor, "B T H P"]) -> Float[Tensor, "B T H P"]:
    return torch.einsum("bhts,bshp->bthp", matrix, x)


@pytest.mark.parametrize("num_groups", [1, 2, 4])
@pytest.mark.parametrize("num_tokens", [1, 2, 17, 65])
def test_matrix_times_inputs_equals_the_recurrence(num_tokens: int, num_groups: int) -> None:
    given = problem(num_tokens, num_groups=num_groups)
    exact, _ = recurrence(given)
    assert relative(apply(mixing_matrix(*given[1:]), given.x), exact) <= TOLERANCE


def test_the_skip_connection_is_on_the_diagonal() -> None:
    given = problem(9)
    weights = torch.linspace(-1.0, 2.0, 4, dtype=torch.float64)
    exact = recurrence(given)[0] + weights[:, None] * given.x
    assert relative(apply(mixing_matrix(*given[1:], D=weights), given.x), exact) <= TOLERANCE


def test_no_output_depends_on_the_future() -> None:
    matrix = mixing_matrix(*problem(12)[1:])
    assert matrix.triu(1).abs().max() == 0
    assert (matrix.diagonal(dim1=-2, dim2=-1) != 0).all()


def test_packed_sequences_make_a_block_diagonal_matrix() -> None:
    given = problem(11, num_batch=1)
    starts = [0, 4, 5, 5, 11]
    matrix = mixing_matrix(*given[1:], cu_seqlens=torch.tensor(starts))
    is_within = torch.zeros_like(matrix, dtype=torch.bool)
    for start, stop in itertools.pairwise(starts):
        alone = Problem(*(tensor if tensor.ndim == 1 else tensor[:, start:stop] for tensor in given))
        torch.testing.assert_close(
            matrix[..., start:stop, start:stop], mixing_matrix(*alone[1:]), rtol=TOLERANCE, atol=1e-15
        )
        is_within[..., start:stop, start:stop] = True
    assert matrix[~is_within].abs().max() == 0


def test_long_memory_loses_no_digits() -> None:
    # a running sum reaches 1e6 in front of the steps that matter, so that its differences keep 10 digits
    given = problem(40)
    given.dt[:, :20] = 5e4
    exact, _ = recurrence(given)
    assert relative(apply(mixing_matrix(*given[1:]), given.x)[:, 20:], exact[:, 20:]) <= TOLERANCE


@pytest.mark.parametrize(("num_tokens", "chunk_size"), [(1, 16), (16, 16), (17, 16), (100, 16), (65, 64), (5, 1)])
def test_the_scan_equals_the_recurrence(num_tokens: int, chunk_size: int) -> None:
    given = problem(num_tokens)
    generator = torch.Generator().manual_seed(1)
    initial = torch.randn(2, 4, 3, 5, generator=generator, dtype=torch.float64)
    for state in (None, initial):
        exact, exact_state = recurrence(given, state)
        found = ssd_by_scan(*given, initial_state=state, chunk_size=chunk_size)
        assert relative(found.y, exact) <= TOLERANCE
        assert relative(found.final_state, exact_state) <= TOLERANCE


def test_gradients_of_the_scan_equal_those_of_the_recurrence() -> None:
    given = problem(37)
    leaves = [tensor.requires_grad_() for tensor in given]
    generator = torch.Generator().manual_seed(2)
    weight = torch.randn(given.x.shape, generator=generator, dtype=torch.float64)
    exact = torch.autograd.grad((recurrence(given)[0] * weight).sum(), leaves)
    found = torch.autograd.grad((ssd_by_scan(*given, chunk_size=8).y * weight).sum(), leaves)
    for ours, theirs in zip(found, exact, strict=True):
        assert relative(ours, theirs) <= 1e-10


@given(split=st.integers(1, 29), seed=st.integers(0, 2**16))
def test_the_scan_goes_on_from_its_final_state(split: int, seed: int) -> None:
    given = problem(30, seed=seed)
    first, second = (
        Problem(*(tensor if tensor.ndim == 1 else tensor[:, part] for tensor in given))
        for part in (slice(0, split), slice(split, None))
    )
    whole = ssd_by_scan(*given, chunk_size=8)
    left = ssd_by_scan(*first, chunk_size=8)
    right = ssd_by_scan(*second, initial_state=left.final_state, chunk_size=8)
    assert relative(torch.cat([left.y, right.y], dim=1), whole.y) <= TOLERANCE
    assert relative(right.final_state, whole.final_state) <= TOLERANCE


@pytest.mark.parametrize("starts", [[1, 5], [0, 4], [0, 3, 2, 5], []])
def test_starts_that_do_not_cover_the_tokens_are_refused(starts: list[int]) -> None:
    given = problem(5, num_batch=1)
    with pytest.raises(InputError, match="cu_seqlens"):
        mixing_matrix(*given[1:], cu_seqlens=torch.tensor(starts, dtype=torch.int64))


def test_shapes_that_do_not_fit_are_refused() -> None:
    given = problem(5, num_heads=4, num_groups=2)
    with pytest.raises(InputError, match="A has shape"):
        mixing_matrix(given.dt, given.A[:2], given.B, given.C)
    with pytest.raises(InputError, match="B has shape"):
        mixing_matrix(given.dt, given.A, given.B[:, :4], given.C)
    with pytest.raises(InputError, match="multiple of theirs"):
        mixing_matrix(given.dt[..., :3], given.A[:3], given.B, given.C)
    with pytest.raises(InputError, match="no tokens"):
        ssd_by_scan(*(tensor if tensor.ndim == 1 else tensor[:, :0] for tensor in given))
