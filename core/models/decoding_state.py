"""The state of a decode: what every layer keeps of the tokens so far, allocated once."""

# Letters: B batch.

from collections.abc import Sequence
from dataclasses import dataclass

from lab.core.mixers.base import Mixer, MixerState


@dataclass(frozen=True, slots=True)
class DecodingState:
    """One state a layer, in the order of the model's layers: keys and values grow with the tokens, SSD states do not.

    Attributes:
        layers: each made by its own layer's mixer.
    """

    layers: tuple[MixerState, ...]

    @classmethod
    def allocate(cls, mixers: Sequence[Mixer], batch_size: int, *, max_lengths: Sequence[int]) -> "DecodingState":
        """Empty states for B sequences; `max_lengths` gives each layer's number of tokens, the prompt included."""
        return cls(
            tuple(
                mixer.allocate_state(batch_size, max_length=max_length)
                for mixer, max_length in zip(mixers, max_lengths, strict=True)
            )
        )

    @property
    def length(self) -> int:
        """Tokens that the last layer has seen."""
        return self.layers[-1].length

    @property
    def num_bytes(self) -> int:
        """Size of all allocations."""
        return sum(state.num_bytes for state in self.layers)
