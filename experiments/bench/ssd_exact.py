"""The SSD operator in float64, chunk by chunk: exact results for comparison with the timed implementations.

Independent of core/ssd: the decay matrix of a chunk is materialised, and chunks are processed in a loop.
"""

# Letters: B batch, T tokens, Q tokens of a chunk, H heads, P head_dim, N state_dim; as many groups as heads.

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

# number of tokens whose decay matrix is materialised at once
_CHUNK = 128
# the gradient keeps the matrices of one segment, and recomputes the others
_SEGMENT = 1024


class Inputs(NamedTuple):
    """The operator's arguments."""

    x: Float[Tensor, "B T H P"]
    dt: Float[Tensor, "B T H"]
    A: Float[Tensor, " H"]
    B: Float[Tensor, "B T H N"]
    C: Float[Tensor, "B T H N"]


def exact_output(inputs: Inputs) -> Float[Tensor, "B T H P"]:
    """y of every token in float64; differentiable in every argument."""
    x, dt, A, B, C = inputs
    state = torch.zeros(x.shape[0], *x.shape[2:], B.shape[-1], dtype=torch.float64, device=x.device)
    outputs: list[Tensor] = []
    for segment in zip(*(torch.split(tensor, _SEGMENT, dim=1) for tensor in (x, dt, B, C)), strict=True):
        y, state = checkpoint(_segment, A, state, *segment, use_reentrant=False, preserve_rng_state=False)
        outputs.append(y)
    return torch.cat(outputs, dim=1)


def _segment(A: Tensor, state: Tensor, x: Tensor, dt: Tensor, B: Tensor, C: Tensor) -> tuple[Tensor, Tensor]:
    outputs = []
    for chunk in zip(*(torch.split(tensor.double(), _CHUNK, dim=1) for tensor in (x, dt, B, C)), strict=True):
        y, state = _chunk(A.double(), state, *chunk)
        outputs.append(y)
    return torch.cat(outputs, dim=1), state


def _chunk(
    A: Float[Tensor, " H"],
    state: Float[Tensor, "B H P N"],
    x: Float[Tensor, "B Q H P"],
    dt: Float[Tensor, "B Q H"],
    B: Float[Tensor, "B Q H N"],
    C: Float[Tensor, "B Q H N"],
) -> tuple[Float[Tensor, "B Q H P"], Float[Tensor, "B H P N"]]:
    """Outputs of a chunk and the state after it, from the state before it."""
    log_decay = (dt * A).transpose(1, 2)  # [B, H, Q]
    num_tokens = log_decay.shape[-1]
    is_later = torch.ones(num_tokens, num_tokens, dtype=torch.bool, device=x.device).tril(-1)
    # sums of the spanned terms: a difference of running sums would cancel
    terms = log_decay[..., :, None].expand(*log_decay.shape, num_tokens).masked_fill(~is_later, 0.0)
    within = torch.exp(terms.cumsum(dim=-2)).tril()  # [B, H, Q, Q]
    from_start = torch.exp(log_decay.cumsum(dim=-1))
    scores = torch.einsum("bthn,bshn->bhts", C, B)
    steps = x * dt[..., None]
    y = torch.einsum("bhts,bshp->bthp", scores * within, steps)
    y = y + torch.einsum("bthn,bhpn->bthp", C * from_start.transpose(1, 2)[..., None], state)
    added = torch.einsum("bshp,bshn->bhpn", steps * within[:, :, -1].transpose(1, 2)[..., None], B)
    return y, from_start[..., -1, None, None] * state + added
