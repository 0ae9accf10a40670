"""The gated delta rule in chunks: one triangular system per chunk, one state between chunks.

Section 3.3 of the paper, with the WY form solved as a triangular system. Two tiers compute the same result: `native` in
C++ on the CPU, if a compiler is found, and `torch` everywhere. Both save only the inputs for the backward pass, which
recomputes states and written values.
"""

# Letters: B batch, T tokens, H heads, Hq, Hk, Hv heads of q, k and v, K key_dim, V value_dim, S sequences.

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lab.core.delta_rule.chunked import native, portable
from lab.core.delta_rule.chunked.inputs import Inputs
from lab.core.delta_rule.validation import DeltaRuleOutput
from lab.core.operators import chunked
from lab.core.operators.arguments import computing_dtype
from lab.core.operators.chunked import Tier, TierChoice, run_chunked
from lab.core.operators.sequences import sequence_starts

NATIVE = Tier("native", native.forward, native.backward)
TORCH = Tier("torch", portable.forward, portable.backward)


def choose_tier(device: torch.device) -> TierChoice:
    """The native tier on a CPU if it can be built, which happens on first use; else the torch tier."""
    return chunked.choose_tier(NATIVE, TORCH, device, native.why_not)


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
    """As `lab.core.delta_rule.gated_delta_rule`."""
    dtype = computing_dtype(q)
    inputs = Inputs(
        q.to(dtype),
        k.to(dtype),
        v.to(dtype),
        g.to(dtype),
        beta.to(dtype),
        None if initial_state is None else initial_state.to(dtype),
        sequence_starts(cu_seqlens),
        float(scale),
    )
    y, final_state = run_chunked("chunked gated delta rule", choose_tier(q.device).tier, inputs, chunk_size)
    return DeltaRuleOutput(y.to(v.dtype), final_state)
