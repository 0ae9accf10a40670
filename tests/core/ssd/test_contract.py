"""What the chunked SSD operator promises beside its numbers: causality, exactness, layouts, threads, one derivative."""

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from lab.core.errors import InputError
from lab.core.ssd import SsdOutput, reference

Tensors = dict[str, Tensor]
Operator = Callable[..., SsdOutput]

BY_TOKEN = ("x", "dt", "B", "C")


def draw(
    num_tokens: int, *, groups: int = 2, sequences: int = 1, sizes: tuple[int, int] = (6, 5), dtype: torch.dtype
) -> Tensors:
    """One row of 4 heads with every optional tensor."""
    generator = torch.Generator().manual_seed(num_tokens)
    head_dim, state_dim = sizes
    shapes = {
        "x": (1, num_tokens, 4, head_dim),
        "dt": (1, num_tokens, 4),
        "A": (4,),
        "B": (1, num_tokens, groups, state_dim),
        "C": (1, num_tokens, groups, state_dim),
        "D": (4,),
        "dt_bias": (4,),
        "initial_state": (sequences, 4, head_dim, state_dim),
    }
    tensors = {name: torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in shapes.items()}
    tensors["A"] = -torch.exp(tensors["A"])
    return {name: tensor.to(dtype).requires_grad_() for name, tensor in tensors.items()}


def gradients_of(output: SsdOutput, tensors: Tensors) -> Tensors:
    """Of a weighted sum of y and the final state, the weight of a token being its place from the end."""
    weights = torch.arange(output.y.shape[1], 0, -1, dtype=output.y.dtype)[:, None, None].expand_as(output.y)
    found = torch.autograd.grad(output, list(tensors.values()), (weights, torch.ones_like(output.final_state)))
    return dict(zip(tensors, found, strict=True))


@pytest.mark.parametrize("chunk_size", [16, 64])
def test_nothing_flows_from_the_future(operator: Operator, chunk_size: int) -> None:
    tensors = draw(100, dtype=torch.float64)
    output = operator(**tensors, chunk_size=chunk_size, dt_softplus=True)
    for token in (0, 15, 16, 17, 63, 98):
        found = torch.autograd.grad(output.y[:, token].sum(), [tensors[name] for name in BY_TOKEN], retain_graph=True)
        for gradient in found:
            assert torch.all(gradient[:, token + 1 :] == 0)
            assert torch.any(gradient[:, token] != 0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_packed_sequences_equal_separate_ones_exactly(operator: Operator, dtype: torch.dtype, groups: int) -> None:
    starts = (0, 1, 64, 64, 129, 300)
    tensors = draw(300, groups=groups, sequences=len(starts) - 1, sizes=(33, 40), dtype=dtype)
    packed = operator(**tensors, dt_softplus=True, cu_seqlens=torch.tensor(starts))
    y_weights = torch.randn(packed.y.shape, generator=torch.Generator().manual_seed(1), dtype=dtype)
    state_weights = torch.ones_like(packed.final_state)
    names = (*BY_TOKEN, "initial_state")
    together = torch.autograd.grad(packed, [tensors[name] for name in names], (y_weights, state_weights))
    for number, (start, stop) in enumerate(pairwise(starts)):
        rows, state = slice(start, stop), slice(number, number + 1)
        part = {name: tensors[name][:, rows].detach().requires_grad_() for name in BY_TOKEN}
        part["initial_state"] = tensors["initial_state"][state].detach().requires_grad_()
        shared = {name: tensors[name] for name in ("A", "D", "dt_bias")}
        alone = operator(**part, **shared, dt_softplus=True)
        assert torch.equal(packed.y[:, rows], alone.y)
        assert torch.equal(packed.final_state[state], alone.final_state)
        apart = torch.autograd.grad(alone, list(part.values()), (y_weights[:, rows], state_weights[state]))
        for name, whole, gradient in zip(names, together, apart, strict=True):
            assert torch.equal(whole[state] if name == "initial_state" else whole[:, rows], gradient), name


def scattered(tensor: Tensor) -> Tensor:
    wide = torch.full((*tensor.shape[:-1], 2 * tensor.shape[-1] + 1), torch.nan, dtype=tensor.dtype)
    wide[..., 1::2] = tensor
    return wide[..., 1::2]


def turned(tensor: Tensor) -> Tensor:
    return tensor.transpose(1, -1).contiguous().transpose(1, -1) if tensor.ndim > 2 else tensor


def sliced(tensor: Tensor) -> Tensor:
    """As a part of the output of one wide projection."""
    return torch.cat([torch.full_like(tensor, torch.nan), tensor], dim=-1)[..., tensor.shape[-1] :]


@pytest.mark.parametrize("lay_out", [scattered, turned, sliced])
def test_tensors_are_read_where_they_lie(operator: Operator, lay_out: Callable[[Tensor], Tensor]) -> None:
    tensors = draw(70, dtype=torch.float64)
    plain = operator(**tensors, dt_softplus=True)
    laid_out = {name: lay_out(tensor.detach()).requires_grad_() for name, tensor in tensors.items()}
    assert not laid_out["x"].is_contiguous()
    found = operator(**laid_out, dt_softplus=True)
    torch.testing.assert_close(found.y, plain.y, rtol=0, atol=1e-13)
    torch.testing.assert_close(found.final_state, plain.final_state, rtol=0, atol=1e-13)
    torch.testing.assert_close(gradients_of(found, laid_out), gradients_of(plain, tensors), rtol=0, atol=1e-9)


def test_the_gradient_of_a_plain_sum_is_welcome(operator: Operator) -> None:
    tensors = draw(20, dtype=torch.float64)
    (expanded,) = torch.autograd.grad(operator(**tensors).y.sum(), tensors["x"])
    y = operator(**tensors).y
    (contiguous,) = torch.autograd.grad(y, tensors["x"], torch.ones_like(y))
    assert torch.equal(expanded, contiguous)


@pytest.mark.parametrize("part", ["y", "final_state"])
def test_one_output_alone_has_its_gradients(operator: Operator, part: str) -> None:
    tensors = draw(20, dtype=torch.float64)
    tensors["D"] = torch.zeros_like(tensors["D"])
    leaves = [tensors[name] for name in ("x", "dt", "A", "B", "dt_bias", "initial_state")]
    found = torch.autograd.grad(getattr(operator(**tensors), part).sum(), leaves)
    expected = torch.autograd.grad(getattr(reference.ssd(**tensors), part).sum(), leaves)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.slow
def test_threads_change_nothing(operator: Operator) -> None:
    tensors = draw(520, groups=1, sizes=(64, 64), dtype=torch.float32)
    before = torch.get_num_threads()
    results = []
    try:
        for num_threads in (1, 2, 3):
            torch.set_num_threads(num_threads)
            output = operator(**tensors, dt_softplus=True)
            results.append({**output._asdict(), **gradients_of(output, tensors)})
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert [name for name in other if not torch.equal(other[name], results[0][name])] == []


@pytest.mark.parametrize("is_reentrant", [True, False])
def test_checkpointing_gives_the_same_gradients(operator: Operator, is_reentrant: bool) -> None:
    tensors = draw(70, dtype=torch.float64)

    def call(*values: Tensor) -> tuple[Tensor, Tensor]:
        return tuple(operator(**dict(zip(tensors, values, strict=True))))

    plain = torch.autograd.grad(call(*tensors.values())[0].sum(), list(tensors.values()))
    for leaf in tensors.values():
        leaf.grad = None
    checkpoint(call, *tensors.values(), use_reentrant=is_reentrant)[0].sum().backward()
    for gradient, leaf in zip(plain, tensors.values(), strict=True):
        assert torch.equal(gradient, leaf.grad)


def test_a_second_derivative_is_refused(operator: Operator) -> None:
    tensors = draw(5, dtype=torch.float64)
    with pytest.raises(InputError, match="create_graph"):
        torch.autograd.grad(operator(**tensors).y.sum(), tensors["x"], create_graph=True)


def test_a_chunk_longer_than_the_sequence_is_the_sequence(operator: Operator) -> None:
    tensors = draw(40, dtype=torch.float64)
    assert torch.equal(operator(**tensors, chunk_size=40).y, operator(**tensors, chunk_size=10**9).y)


def test_nothing_is_written_into_the_arguments(operator: Operator) -> None:
    tensors = draw(40, dtype=torch.float64)
    before = {name: tensor.detach().clone() for name, tensor in tensors.items()}
    gradients_of(operator(**tensors, dt_softplus=True), tensors)
    assert [name for name in tensors if not torch.equal(tensors[name], before[name])] == []
