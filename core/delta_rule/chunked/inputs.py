"""Inputs and gradients shared by both tiers of the chunked gated delta rule."""

# Letters: B batch, T tokens, H heads, Hq, Hk, Hv heads of q, k and v, K key_dim, V value_dim, S sequences.

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from lab.core.operators.sequences import longest_sequence, num_sequences


class Inputs(NamedTuple):
    """Validated tensors of one dtype, float32 or float64, on one device.

    Attributes:
        q: queries.
        k: keys.
        v: values.
        g: log decays.
        beta: write strengths.
        initial_state: before the first token of every sequence; None for zero.
        starts: boundaries of packed sequences, from 0 to T; None if row s of the batch is sequence s.
        scale: factor of the output.
    """

    q: Float[Tensor, "B T Hq K"]
    k: Float[Tensor, "B T Hk K"]
    v: Float[Tensor, "B T Hv V"]
    g: Float[Tensor, "B T H"]
    beta: Float[Tensor, "B T H"]
    initial_state: Float[Tensor, "S H V K"] | None
    starts: tuple[int, ...] | None
    scale: float

    @property
    def num_sequences(self) -> int:
        """S."""
        return num_sequences(self.starts, self.q.shape[0])

    @property
    def state_shape(self) -> tuple[int, int, int, int]:
        """(S, H, V, K)."""
        return self.num_sequences, self.g.shape[2], self.v.shape[3], self.k.shape[3]

    @property
    def output_shape(self) -> tuple[int, int, int, int]:
        """(B, T, H, V)."""
        batch, num_tokens, num_heads = self.g.shape
        return batch, num_tokens, num_heads, self.v.shape[3]

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        return longest_sequence(self.starts, self.q.shape[1])


class Gradients(NamedTuple):
    """Gradients of the tensors of `Inputs`, each with the shape of its input.

    Attributes:
        q: of the queries.
        k: of the keys.
        v: of the values.
        g: of the log decays.
        beta: of the write strengths.
        initial_state: of the initial state; None if there is none.
    """

    q: Float[Tensor, "B T Hq K"]
    k: Float[Tensor, "B T Hk K"]
    v: Float[Tensor, "B T Hv V"]
    g: Float[Tensor, "B T H"]
    beta: Float[Tensor, "B T H"]
    initial_state: Float[Tensor, "S H V K"] | None
