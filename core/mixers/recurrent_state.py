"""What a recurrent mixer remembers of the tokens before."""

# Letters: B batch, H heads, P head_dim, C channels of values, keys and queries together, W taps.

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from lab.core.mixers.base import MixerState


@dataclass(kw_only=True)
class RecurrentState(MixerState):
    """Decoding state of constant size.

    Attributes:
        conv: the last W - 1 inputs of the convolution, in the dtype of the weights.
        recurrent: the state of every head, float32 or wider.
        max_length: number of tokens it was allocated for; not a limit, but a dynamic rotary embedding depends on it.
    """

    conv: Float[Tensor, "B C W1"]
    recurrent: Float[Tensor, "B H P P"]
    max_length: int

    def tensors(self) -> tuple[Tensor, ...]:
        """The convolution's and the recurrence's state."""
        return self.conv, self.recurrent
