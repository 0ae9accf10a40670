"""The SSD operator in chunks: matrix products inside a chunk, one state between chunks (Dao and Gu 2024, section 6).

Two tiers compute the same result: `native` in C++ on the CPU, if a compiler is found, and `torch` everywhere.
Both work on blocks that fit in the cache, skip the part above the diagonal, and save only the inputs for the backward
pass, which recomputes the states.
"""

# Letters: B batch, T tokens, H heads, G groups, P head_dim, N state_dim, S sequences.

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lab.core.operators import chunked
from lab.core.operators.arguments import computing_dtype
from lab.core.operators.chunked import Tier, TierChoice, run_chunked
from lab.core.operators.sequences import sequence_starts
from lab.core.ssd.chunked import native, portable
from lab.core.ssd.chunked.inputs import Inputs
from lab.core.ssd.validation import SsdOutput

NATIVE = Tier("native", native.forward, native.backward)
TORCH = Tier("torch", portable.forward, portable.backward)


def choose_tier(device: torch.device) -> TierChoice:
    """The native tier on a CPU if it can be built, which happens on first use; else the torch tier."""
    return chunked.choose_tier(NATIVE, TORCH, device, native.why_not)


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
    """As `lab.core.ssd.ssd`."""
    dtype = computing_dtype(x)
    inputs = Inputs(
        x.to(dtype),
        dt.to(dtype),
        A.to(dtype),
        B.to(dtype),
        C.to(dtype),
        None if D is None else D.to(dtype),
        None if dt_bias is None else dt_bias.to(dtype),
        None if initial_state is None else initial_state.to(dtype),
        sequence_starts(cu_seqlens),
        dt_softplus,
    )
    y, final_state = run_chunked("chunked SSD operator", choose_tier(x.device).tier, inputs, chunk_size)
    return SsdOutput(y.to(x.dtype), final_state)
