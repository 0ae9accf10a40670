"""Associative scans: all prefixes x_1 o x_2 o ... o x_t of a sequence in a logarithmic number of batched steps.

Two operators are here. Scalar decay, h_t = a_t h_{t-1} + b_t, carries state-space models from one chunk of a sequence
to the next. Row-normalised matrices with log masses make the forward filter of a hidden Markov model a scan.
"""

# Letters: S states, V tokens.

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lab.core.errors import InputError

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

    Raises:
        InputError: for no tensors, an empty sequence, or tensors that differ in length.
    """
    lengths = {tensor.shape[dim] for tensor in elements}
    if len(lengths) != 1 or 0 in lengths:
        raise InputError(f"elements have lengths {sorted(lengths)} along dim={dim}; give tensors of one length above 0")
    (length,) = lengths
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


def combine_decay(earlier: Elements, later: Elements) -> Elements:
    """(a, b) then (a', b') is (a a', a' b + b'): the map h -> a h + b followed by h -> a' h + b'."""
    (decay, value), (later_decay, later_value) = earlier, later
    return decay * later_decay, later_decay * value + later_value


def linear_recurrence(decay: Float[Tensor, "..."], values: Float[Tensor, "..."], *, dim: int) -> Float[Tensor, "..."]:
    """h_t = a_t h_{t-1} + b_t from h_0 = 0, for all t.

    Args:
        decay: a_t; as many axes as `values`, of length 1 where one decay serves all.
        values: b_t.
        dim: axis of time.

    Raises:
        InputError: if the numbers of axes or the lengths differ, or the sequence is empty.
    """
    if decay.ndim != values.ndim:
        raise InputError(
            f"decay has {decay.ndim} axes but values have {values.ndim}; give decay axes of length 1 where it is shared"
        )
    _, states = associative_scan(combine_decay, (decay, values), dim)
    return states


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
