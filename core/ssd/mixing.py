"""The SSD operator as a matrix, and as a scan: two forms that share nothing with the fast one but the definition.

A state-space layer is y = M x, where M[t, s] = C[t] . B[s] exp((dt[s+1] + ... + dt[t]) A) dt[s] for s <= t, a
1-semiseparable matrix times scores (Dao and Gu 2024, section 3). The matrix costs T^2 and is made to be looked at.
"""

# Letters: B batch, T tokens, H heads, G groups, P head_dim, N state_dim, S sequences.

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad

from lab.core.errors import InputError
from lab.core.scan import linear_recurrence


def mixing_matrix(
    dt: Float[Tensor, "B T H"],
    A: Float[Tensor, " H"],
    B: Float[Tensor, "B T G N"],
    C: Float[Tensor, "B T G N"],
    *,
    D: Float[Tensor, " H"] | None = None,
    cu_seqlens: Int[Tensor, " S1"] | None = None,
) -> Float[Tensor, "B H T T"]:
    """The lower triangular M with y = M x for every head, from a zero initial state.

    Args:
        dt: step sizes, after bias and softplus.
        A: log decay rates, negative.
        B: input maps; H must be a multiple of G, and consecutive heads share a group.
        C: output maps.
        D: weight of the skip connection, added on the diagonal.
        cu_seqlens: where packed sequences begin, then T: between them M is zero.

    Raises:
        InputError: if the shapes do not fit, or `cu_seqlens` does not run from 0 to T.
    """
    num_tokens, num_heads = dt.shape[1:]
    _refuse_wrong_shapes(dt, A, B, C)
    heads_per_group = num_heads // B.shape[2]
    scores = torch.einsum("btgn,bsgn->bgts", C, B).repeat_interleave(heads_per_group, dim=1)
    steps = dt.transpose(1, 2)
    matrix = scores * torch.exp(_segment_sums(steps * A[:, None])) * steps[:, :, None, :]
    if D is not None:
        matrix = matrix + torch.diag_embed(D[:, None].expand(num_heads, num_tokens))
    if cu_seqlens is not None:
        sequence = _sequence_of_token(cu_seqlens, num_tokens)
        matrix = matrix.masked_fill(sequence[:, None] != sequence, 0.0)
    return matrix


class Scanned(NamedTuple):
    """What the scan computes.

    Attributes:
        y: output of every token.
        final_state: state after the last.
    """

    y: Float[Tensor, "B T H P"]
    final_state: Float[Tensor, "B H P N"]


def ssd_by_scan(
    x: Float[Tensor, "B T H P"],
    dt: Float[Tensor, "B T H"],
    A: Float[Tensor, " H"],
    B: Float[Tensor, "B T G N"],
    C: Float[Tensor, "B T G N"],
    *,
    initial_state: Float[Tensor, "B H P N"] | None = None,
    chunk_size: int = 64,
) -> Scanned:
    """The operator from its matrix inside of chunks and an associative scan between them.

    A reference: plain, differentiable, in the precision of its arguments, and independent of the token by token
    recurrence. Each chunk maps the state h to a h + b, and `linear_recurrence` composes these maps.

    Args:
        x: inputs.
        dt: step sizes, after bias and softplus.
        A: log decay rates, negative.
        B: input maps; H must be a multiple of G.
        C: output maps.
        initial_state: state before the first token; None for zero.
        chunk_size: tokens whose matrix is written out at once.

    Raises:
        InputError: if the shapes do not fit, or there is no token.
    """
    _refuse_wrong_shapes(dt, A, B, C)
    num_batch, num_tokens, num_heads, head_dim = x.shape
    if num_tokens == 0:
        raise InputError("x has no tokens, but a scan needs at least one; give T of 1 or more")
    heads_per_group = num_heads // B.shape[2]
    num_chunks = -(-num_tokens // chunk_size)
    padding = num_chunks * chunk_size - num_tokens

    def in_chunks(tensor: Tensor) -> Tensor:
        # a step of size zero neither decays the state nor adds to it
        padded = pad(tensor, (0, 0) * (tensor.ndim - 2) + (0, padding))
        return padded.reshape(num_batch * num_chunks, chunk_size, *tensor.shape[2:])

    # the batch is all chunks of all sequences now, k in the sums
    x, dt, B, C = (in_chunks(tensor) for tensor in (x, dt, B, C))
    within = torch.einsum("khts,kshp->kthp", mixing_matrix(dt, A, B, C), x)
    log_decay = dt * A
    elapsed = log_decay.cumsum(dim=1)
    remaining = log_decay.flip(1).cumsum(dim=1).flip(1) - log_decay
    inputs = x * (dt * torch.exp(remaining))[..., None]
    added = torch.einsum("kthp,kthn->khpn", inputs, B.repeat_interleave(heads_per_group, dim=2))
    decay = torch.exp(elapsed[:, -1])[..., None, None]
    added, decay = (tensor.reshape(num_batch, num_chunks, *tensor.shape[1:]) for tensor in (added, decay))
    first = torch.zeros_like(added[:, :1]) if initial_state is None else initial_state[:, None]
    states = linear_recurrence(
        torch.cat([torch.ones_like(decay[:, :1]), decay], dim=1), torch.cat([first, added], dim=1), dim=1
    )
    outputs = C.repeat_interleave(heads_per_group, dim=2) * torch.exp(elapsed)[..., None]
    carried = torch.einsum("kthn,khpn->kthp", outputs, states[:, :-1].flatten(0, 1))
    y = (within + carried).reshape(num_batch, num_chunks * chunk_size, num_heads, head_dim)
    return Scanned(y[:, :num_tokens], states[:, -1])


def _segment_sums(values: Float[Tensor, "*batch T"]) -> Float[Tensor, "*batch T T"]:
    """values[s+1] + ... + values[t] at [t, s], and -inf above the diagonal.

    Every entry is summed from its own terms: the difference of two running sums would lose the digits that they share.
    """
    num_tokens = values.shape[-1]
    is_later = torch.ones(num_tokens, num_tokens, dtype=torch.bool, device=values.device).tril(-1)
    terms = values[..., :, None].expand(*values.shape, num_tokens).masked_fill(~is_later, 0.0)
    is_future = ~torch.ones_like(is_later).tril()
    return terms.cumsum(dim=-2).masked_fill(is_future, -torch.inf)


def _sequence_of_token(cu_seqlens: Int[Tensor, " S1"], num_tokens: int) -> Int[Tensor, " T"]:
    starts = cu_seqlens.tolist()
    if starts[:1] != [0] or starts[-1] != num_tokens or sorted(starts) != starts:
        raise InputError(
            f"cu_seqlens={starts} must rise from 0 to T={num_tokens}; give where each sequence begins, then T"
        )
    return torch.bucketize(torch.arange(num_tokens, device=cu_seqlens.device), cu_seqlens[1:].contiguous(), right=True)


def _refuse_wrong_shapes(dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> None:
    num_batch, num_tokens, num_heads = dt.shape
    if A.shape != (num_heads,):
        raise InputError(f"A has shape {tuple(A.shape)} but dt has {num_heads} heads; give one rate for each head")
    if B.shape != C.shape or B.ndim != 4 or B.shape[:2] != (num_batch, num_tokens):
        raise InputError(
            f"B has shape {tuple(B.shape)} and C {tuple(C.shape)}, but both must be ({num_batch}, {num_tokens}, G, N) "
            "like dt; give the maps of the same tokens"
        )
    if num_heads % B.shape[2]:
        raise InputError(
            f"dt has {num_heads} heads but B {B.shape[2]} groups; give a number of heads that is a multiple of theirs"
        )
