"""The SSD operator by definition, token by token: the oracle for all other backends."""

# Letters: B batch, T tokens, H heads, G groups, P head_dim, N state_dim, S sequences.

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import softplus

from lab.core.operators.arguments import computing_dtype
from lab.core.operators.sequences import sequence_starts
from lab.core.ssd.validation import SOFTPLUS_THRESHOLD, SsdOutput


def ssd(
    x: Float[Tensor, "B T H P"],
    dt: Float[Tensor, "B T H"],
    A: Float[Tensor, " H"],
    B: Float[Tensor, "B T G N"],
    C: Float[Tensor, "B T G N"],
    *,
    D: Float[Tensor, " H"] | Float[Tensor, "H P"] | None = None,
    dt_bias: Float[Tensor, " H"] | None = None,
    dt_softplus: bool = False,
    chunk_size: int | None = None,
    initial_state: Float[Tensor, "S H P N"] | None = None,
    cu_seqlens: Int[Tensor, " S1"] | None = None,
) -> SsdOutput:
    """As `lab.core.ssd.ssd`; there are no chunks, so `chunk_size` has no effect."""
    dtype = computing_dtype(x)
    num_heads, head_dim = x.shape[2:]
    heads_per_group = num_heads // B.shape[2]
    steps = dt.to(dtype) if dt_bias is None else dt.to(dtype) + dt_bias.to(dtype)
    steps = softplus(steps, threshold=SOFTPLUS_THRESHOLD) if dt_softplus else steps
    inputs = x.to(dtype)
    write = B.to(dtype).repeat_interleave(heads_per_group, dim=2)
    read = C.to(dtype).repeat_interleave(heads_per_group, dim=2)
    decay = torch.exp(steps * A.to(dtype))
    starts = sequence_starts(cu_seqlens)

    def run(row: slice, tokens: slice, state: Tensor) -> tuple[Tensor, Tensor]:
        outputs = [inputs.new_zeros(state.shape[0], 0, num_heads, head_dim)]
        for t in range(tokens.start, tokens.stop):
            written = (steps[row, t, :, None] * inputs[row, t])[..., None] * write[row, t, :, None, :]
            state = decay[row, t, :, None, None] * state + written
            outputs.append((state @ read[row, t, :, :, None])[None, ..., 0].transpose(0, 1))
        return torch.cat(outputs, dim=1), state

    num_sequences = x.shape[0] if starts is None else len(starts) - 1
    if initial_state is None:
        initial_state = inputs.new_zeros(num_sequences, num_heads, head_dim, B.shape[3])
    states = initial_state.to(dtype)
    if starts is None:
        y, final_state = run(slice(None), slice(0, x.shape[1]), states)
    else:
        results = [run(slice(0, 1), slice(starts[s], starts[s + 1]), states[s : s + 1]) for s in range(num_sequences)]
        y = torch.cat([inputs[:, :0], *(output for output, _ in results)], dim=1)
        final_state = torch.cat([states[:0], *(state for _, state in results)])
    if D is not None:
        y = y + (D if D.ndim == 2 else D[:, None]).to(dtype) * inputs
    return SsdOutput(y.to(x.dtype), final_state)
