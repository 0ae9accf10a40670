"""The gated delta rule by definition: token by token, differentiable by autograd.

Slow; the oracle for all other backends.
"""

# Letters: B batch, T tokens, H heads, Hq, Hk, Hv heads of q, k and v, K key_dim, V value_dim, S sequences.

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lab.core.delta_rule.validation import DeltaRuleOutput
from lab.core.operators.arguments import computing_dtype
from lab.core.operators.sequences import sequence_starts


def gated_delta_rule(
    q: Float[Tensor, "B T Hq K"],
    k: Float[Tensor, "B T Hk K"],
    v: Float[Tensor, "B T Hv V"],
    g: Float[Tensor, "B T H"],
    beta: Float[Tensor, "B T H"],
    *,
    scale: float = 1.0,
    chunk_size: int | None = None,
    initial_state: Float[Tensor, "S H V K"] | None = None,
    cu_seqlens: Int[Tensor, " S1"] | None = None,
) -> DeltaRuleOutput:
    """As `lab.core.delta_rule.gated_delta_rule`; there are no chunks, so `chunk_size` has no effect."""
    dtype = computing_dtype(q)
    num_heads = g.shape[2]
    queries, keys, values = (
        tensor.to(dtype).repeat_interleave(num_heads // tensor.shape[2], dim=2) for tensor in (q, k, v)
    )
    decay, strength = g.to(dtype).exp(), beta.to(dtype)
    starts = sequence_starts(cu_seqlens)

    def run(row: slice, tokens: slice, state: Tensor) -> tuple[Tensor, Tensor]:
        outputs = [values[row, :0]]
        for t in range(tokens.start, tokens.stop):
            state = decay[row, t, :, None, None] * state
            held = (state @ keys[row, t, :, :, None])[..., 0]
            replaced = strength[row, t, :, None] * (values[row, t] - held)
            state = state + replaced[..., None] * keys[row, t, :, None, :]
            outputs.append(scale * (state @ queries[row, t, :, :, None])[..., 0][:, None])
        return torch.cat(outputs, dim=1), state

    num_sequences = q.shape[0] if starts is None else len(starts) - 1
    if initial_state is None:
        initial_state = values.new_zeros(num_sequences, num_heads, v.shape[3], k.shape[3])
    states = initial_state.to(dtype)
    if starts is None:
        y, final_state = run(slice(None), slice(0, q.shape[1]), states)
    else:
        results = [run(slice(0, 1), slice(starts[s], starts[s + 1]), states[s : s + 1]) for s in range(num_sequences)]
        y = torch.cat([values[:, :0], *(output for output, _ in results)], dim=1)
        final_state = torch.cat([states[:0], *(state for _, state in results)])
    return DeltaRuleOutput(y.to(v.dtype), final_state)
