"""The SSD operator written out as a matrix: y = M x with M[t, s] = C[t] . B[s] exp((dt[s+1] + .. + dt[t]) A) dt[s].

M is lower triangular, a 1-semiseparable matrix times scores (Dao and Gu 2024, section 3). Its size is T x T, so it
serves short sequences. It shares the definition with the operators of core/ssd and no code.
"""

# Letters: B batch, T tokens, H heads, G groups, N state_dim, S sequences.

import torch
from jaxtyping import Float, Int
from torch import Tensor


def mixing_matrix(
    dt: Float[Tensor, "B T H"],
    A: Float[Tensor, " H"],
    B: Float[Tensor, "B T G N"],
    C: Float[Tensor, "B T G N"],
    *,
    D: Float[Tensor, " H"] | None = None,
    cu_seqlens: Int[Tensor, " S1"] | None = None,
) -> Float[Tensor, "B H T T"]:
    """M of every head, from a zero initial state.

    Args:
        dt: step sizes, after bias and softplus.
        A: log decay rates, negative.
        B: input maps; H must be a multiple of G, and consecutive heads share a group.
        C: output maps.
        D: weight of the skip connection, added on the diagonal.
        cu_seqlens: where packed sequences begin, then T; M is zero between different sequences.
    """
    num_tokens, num_heads = dt.shape[1:]
    scores = torch.einsum("btgn,bsgn->bgts", C, B).repeat_interleave(num_heads // B.shape[2], dim=1)
    steps = dt.transpose(1, 2)
    matrix = scores * torch.exp(_segment_sums(steps * A[:, None])) * steps[:, :, None, :]
    if D is not None:
        matrix = matrix + torch.diag_embed(D[:, None].expand(num_heads, num_tokens))
    if cu_seqlens is not None:
        sequence = torch.bucketize(torch.arange(num_tokens), cu_seqlens[1:].contiguous(), right=True)
        matrix = matrix.masked_fill(sequence[:, None] != sequence, 0.0)
    return matrix


def _segment_sums(values: Float[Tensor, "*batch T"]) -> Float[Tensor, "*batch T T"]:
    """values[s+1] + ... + values[t] at [t, s], and -inf above the diagonal.

    Every entry is summed from its own terms: the difference of two running sums would lose the digits that they share.
    """
    num_tokens = values.shape[-1]
    is_later = torch.ones(num_tokens, num_tokens, dtype=torch.bool).tril(-1)
    terms = values[..., :, None].expand(*values.shape, num_tokens).masked_fill(~is_later, 0.0)
    return terms.cumsum(dim=-2).masked_fill(~torch.ones_like(is_later).tril(), -torch.inf)
