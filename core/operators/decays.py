"""Log-decay sums inside a chunk, for chunked recurrences with one scalar decay per token.

They are summed over the spanned tokens, never as differences of longer sums: accurate even after a strong decay.
"""

# Letters: q tokens of a chunk, i a later one and j an earlier one or the same.

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad


def span_sums(log_decay: Float[Tensor, "*heads q"]) -> Float[Tensor, "*heads q q"]:
    """For every i and j <= i, the sum over j < t <= i, as a product with a triangle of ones; -inf for j > i."""
    length = log_decay.shape[-1]
    is_up_to = torch.ones(length, length, dtype=log_decay.dtype, device=log_decay.device).tril()
    sums = is_up_to @ (log_decay[..., :, None] * is_up_to.tril(-1))
    return sums.masked_fill_(is_up_to == 0, -torch.inf)


def sums_passing(parts: Float[Tensor, "*heads q q"]) -> Float[Tensor, "*heads q"]:
    """For every t, the sum of parts[i, j] over j < t <= i."""
    before = pad(parts[..., :-1].cumsum(-1), (1, 0))
    return before.tril().sum(-2)
