"""Inputs and gradients shared by both tiers of the chunked SSD operator."""

# Letters: B batch, T tokens, H heads, G groups, P head_dim, N state_dim, S sequences.

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from lab.core.operators.sequences import longest_sequence, num_sequences


class Inputs(NamedTuple):
    """Validated tensors of one dtype, float32 or float64, on one device.

    Attributes:
        x: inputs.
        dt: step sizes, before bias and softplus.
        A: log decay rates.
        B: input maps.
        C: output maps.
        D: weight of the skip connection.
        dt_bias: added to `dt`.
        initial_state: before the first token of every sequence; None for zero.
        starts: boundaries of packed sequences, from 0 to T; None if row s of the batch is sequence s.
        is_softplus: whether the step size is softplus(dt + dt_bias).
    """

    x: Float[Tensor, "B T H P"]
    dt: Float[Tensor, "B T H"]
    A: Float[Tensor, " H"]
    B: Float[Tensor, "B T G N"]
    C: Float[Tensor, "B T G N"]
    D: Float[Tensor, " H"] | Float[Tensor, "H P"] | None
    dt_bias: Float[Tensor, " H"] | None
    initial_state: Float[Tensor, "S H P N"] | None
    starts: tuple[int, ...] | None
    is_softplus: bool

    @property
    def num_sequences(self) -> int:
        """S."""
        return num_sequences(self.starts, self.x.shape[0])

    @property
    def state_shape(self) -> tuple[int, int, int, int]:
        """(S, H, P, N)."""
        return (self.num_sequences, *self.x.shape[2:], self.B.shape[3])

    @property
    def output_shape(self) -> tuple[int, ...]:
        """(B, T, H, P)."""
        return tuple(self.x.shape)

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        return longest_sequence(self.starts, self.x.shape[1])


class Gradients(NamedTuple):
    """Gradients of the tensors of `Inputs`, each with the shape of its input.

    Attributes:
        x: of the inputs.
        dt: of the step sizes.
        A: of the log decay rates.
        B: of the input maps.
        C: of the output maps.
        D: of the skip connection; None if there is none.
        dt_bias: of the bias; None if there is none.
        initial_state: of the initial state; None if there is none.
    """

    x: Float[Tensor, "B T H P"]
    dt: Float[Tensor, "B T H"]
    A: Float[Tensor, " H"]
    B: Float[Tensor, "B T G N"]
    C: Float[Tensor, "B T G N"]
    D: Float[Tensor, " H"] | Float[Tensor, "H P"] | None
    dt_bias: Float[Tensor, " H"] | None
    initial_state: Float[Tensor, "S H P N"] | None
