"""The forward filter of a discrete HMM as an associative scan: all prefixes of x_1 o .. o x_T in log2(T) batched steps.

An element is a matrix p(h_t, x_t | h_{t-1}), its rows normalised and their log masses kept beside it. Shares the
definition with `DiscreteHmm` and no code.
"""

# Letters: S states, N sequences, T tokens.

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lab.core.hmm.discrete import DiscreteHmm

Elements = tuple[Tensor, ...]


def associative_scan(
    combine: Callable[[Elements, Elements], Sequence[Tensor]], elements: Elements, dim: int
) -> Elements:
    """Prefixes under an associative operator: y_1 = x_1, y_t = y_{t-1} o x_t.

    Pairs are combined, their scan is taken by recursion, and the prefixes in between are filled in: less than 2 T
    applications in 2 log2(T) batched calls (Blelloch 1990), for any T. Differentiable.

    Args:
        combine: the operator, applied to many pairs at once: (earlier, later) to their product. An element is a tuple
            of tensors; `dim` is an axis of each.
        elements: x_1 .. x_T along `dim` of every tensor.
        dim: axis of the sequence; from the end (negative) if the tensors differ in their number of axes.

    Returns:
        y_1 .. y_T, like `elements`.
    """
    length = elements[0].shape[dim]
    if length == 1:
        return elements

    def part(tensors: Sequence[Tensor], start: int, stop: int, step: int) -> Elements:
        return tuple(_slice(tensor, dim, start, stop, step) for tensor in tensors)

    even_end = length - length % 2
    pairs = tuple(combine(part(elements, 0, even_end, 2), part(elements, 1, even_end, 2)))
    odd_prefixes = associative_scan(combine, pairs, dim)
    if length == 2:
        return tuple(
            torch.cat([first, second], dim=dim)
            for first, second in zip(part(elements, 0, 1, 1), odd_prefixes, strict=True)
        )
    num_later = (length - 1) // 2
    later_prefixes = combine(part(odd_prefixes, 0, num_later, 1), part(elements, 2, length, 2))
    even_prefixes = (
        torch.cat([first, later], dim=dim) for first, later in zip(part(elements, 0, 1, 1), later_prefixes, strict=True)
    )
    return tuple(_interleave(even, odd, dim) for even, odd in zip(even_prefixes, odd_prefixes, strict=True))


class Filtered(NamedTuple):
    """Result of the filter.

    Attributes:
        probs: p(h_t | x_1 .. x_t).
        log_likelihood: log p(x_1 .. x_T) in nats; -inf for an impossible sequence.
    """

    probs: Float[Tensor, "N T S"]
    log_likelihood: Float[Tensor, " N"]


def filter_by_scan(hmm: DiscreteHmm, tokens: Int[Tensor, "N T"]) -> Filtered:
    """Posteriors of every token, by a scan over matrices of size S x S."""
    likelihoods = hmm.emission.T[tokens.T.long()]
    # the product of all matrices up to t has p(h_t, x_1 .. x_t) in every row
    matrices = hmm.transition * likelihoods[:, :, None, :]
    matrices[0] = (hmm.initial * likelihoods[0])[:, None, :]
    probs, log_mass = associative_scan(combine_matrices, tuple(scale_rows(matrices)), dim=0)
    return Filtered(probs[:, :, 0].transpose(0, 1), log_mass[-1, :, 0, 0])


class ScaledMatrices(NamedTuple):
    """Non-negative matrices diag(exp(log_mass)) rows, rows summing to one: products of thousands stay in range.

    Attributes:
        rows: each row sums to 1, or is zero where the matrix has a zero row.
        log_mass: log of the row sums, -inf for a zero row.
    """

    rows: Float[Tensor, "*batch S S"]
    log_mass: Float[Tensor, "*batch S 1"]


def scale_rows(matrices: Float[Tensor, "*batch S S"]) -> ScaledMatrices:
    """Any non-negative matrices as `ScaledMatrices`."""
    mass = matrices.sum(dim=-1, keepdim=True)
    return ScaledMatrices(*_normalise(matrices, mass, torch.zeros_like(mass)))


def combine_matrices(earlier: Elements, later: Elements) -> Elements:
    """The matrix product of two `ScaledMatrices`, row-normalised again."""
    (rows, log_mass), (later_rows, later_log_mass) = earlier, later
    column_log_mass = later_log_mass.transpose(-1, -2)
    # Each row is scaled by the largest mass that it can reach: one scale for all rows would let a row underflow that
    # leads to improbable states alone. The scale cancels, so no gradient flows through it.
    reachable = column_log_mass.masked_fill(rows == 0, -torch.inf)
    scale = reachable.amax(dim=-1, keepdim=True).detach()
    scale = scale.masked_fill(torch.isinf(scale), 0.0)
    weighted = rows * torch.exp((column_log_mass - scale).clamp(max=0.0))
    product = weighted @ later_rows
    mass = product.sum(dim=-1, keepdim=True)
    return _normalise(product, mass, log_mass + scale)


def _normalise(matrices: Tensor, mass: Tensor, log_scale: Tensor) -> tuple[Tensor, Tensor]:
    is_zero = mass == 0
    safe_mass = mass.masked_fill(is_zero, 1.0)
    return matrices / safe_mass, (log_scale + safe_mass.log()).masked_fill(is_zero, -torch.inf)


def _slice(tensor: Tensor, dim: int, start: int, stop: int, step: int) -> Tensor:
    index = [slice(None)] * tensor.ndim
    index[dim] = slice(start, stop, step)
    return tensor[tuple(index)]


def _interleave(even: Tensor, odd: Tensor, dim: int) -> Tensor:
    """even_1, odd_1, even_2, ...; `even` may be one longer."""
    axis = dim % even.ndim
    num_pairs = odd.shape[axis]
    paired = torch.stack([_slice(even, axis, 0, num_pairs, 1), odd], dim=axis + 1).flatten(axis, axis + 1)
    if even.shape[axis] == num_pairs:
        return paired
    return torch.cat([paired, _slice(even, axis, num_pairs, num_pairs + 1, 1)], dim=axis)
