"""What a sequence mixer is: the part of a layer that lets a token see the ones before it.

A file in this folder that defines a `Mixer` is found by `mixers()`; nothing else has to be told about it.
"""

# Letters: B batch, T tokens, D model width, H heads, P head_dim.

import importlib
import pkgutil
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from lab.core.errors import InputError


@dataclass(kw_only=True, slots=True)
class MixerShape:
    """The sizes that mixers of one layer share, so that one can take another's place."""

    hidden_size: int
    """D, width of the residual stream."""
    num_heads: int
    """H, heads of the output (and queries)."""
    num_kv_heads: int
    """G, heads of keys and values; query head h reads key head h // (H / G)."""
    head_dim: int
    """P, channels of a head."""

    def __post_init__(self) -> None:
        if self.num_kv_heads < 1 or self.num_heads % self.num_kv_heads:
            raise InputError(
                f"num_heads={self.num_heads} is no multiple of num_kv_heads={self.num_kv_heads}; each key head serves "
                "the same number of query heads"
            )

    @property
    def heads_per_group(self) -> int:
        """H / G, the query heads that one key head serves."""
        return self.num_heads // self.num_kv_heads


@dataclass(kw_only=True)
class MixerState(ABC):
    """What a mixer keeps of the tokens that it has seen; made once, updated in place.

    Attributes:
        length: tokens seen so far, the same in every row of the batch.
    """

    length: int = 0

    @abstractmethod
    def tensors(self) -> tuple[Tensor, ...]:
        """Everything that is kept."""

    @property
    def num_bytes(self) -> int:
        """Size of the whole allocation, the unused part included."""
        return sum(tensor.nbytes for tensor in self.tensors())

    def reset(self) -> None:
        """Forget every token; the memory is kept."""
        self.length = 0
        for tensor in self.tensors():
            tensor.zero_()


class Mixer(nn.Module, ABC):
    """A causal map of a normed sequence to a sequence, through heads and one output projection.

    `forward` is `output(heads(u))`. The two halves are public because distillation compares heads before the output
    projection. Positions count from 0 and every token is real: padding on the right changes nothing before it, padding
    on the left is refused where a mask is read (`right_padded_lengths`).
    """

    kind: ClassVar[str]
    """The mixer's name in configurations and in the table."""

    def __init__(self, shape: MixerShape) -> None:
        super().__init__()
        self.shape = shape

    @abstractmethod
    def heads(self, u: Float[Tensor, "B T D"]) -> Float[Tensor, "B H T P"]:
        """What each head has gathered for each token, before the output projection."""

    @abstractmethod
    def output(self, heads: Float[Tensor, "B H T P"]) -> Float[Tensor, "B T D"]:
        """The output projection of the concatenated heads."""

    @abstractmethod
    def allocate_state(self, batch_size: int, *, max_length: int) -> MixerState:
        """An empty state for `max_length` tokens in all, on the device of the weights."""

    @abstractmethod
    def prefill(self, u: Float[Tensor, "B T D"], state: MixerState) -> Float[Tensor, "B T D"]:
        """The outputs of the next T tokens after those in `state`, which takes them in.

        Raises:
            InputError: if the state has no room for them.
        """

    @abstractmethod
    def step(self, u: Float[Tensor, "B 1 D"], state: MixerState) -> Float[Tensor, "B 1 D"]:
        """`prefill` of one token."""

    def forward(self, u: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        """The outputs of a whole sequence."""
        return self.output(self.heads(u))


def refuse_overflow(state: MixerState, num_tokens: int, max_length: int) -> None:
    """Refuse tokens that a state has no room for.

    Raises:
        InputError: naming what is left.
    """
    if state.length + num_tokens > max_length:
        raise InputError(
            f"the state holds {state.length} of max_length={max_length} tokens and cannot take {num_tokens} more; "
            f"allocate it with max_length={state.length + num_tokens}"
        )


def right_padded_lengths(mask: Bool[Tensor, "B T"] | Int[Tensor, "B T"]) -> Int[Tensor, " B"]:
    """The number of real tokens in each row of an attention mask whose padding is on the right.

    Raises:
        InputError: if a row has padding before a real token: recurrent states would take it in.
    """
    is_real = mask.bool()
    lengths = is_real.sum(dim=1)
    positions = torch.arange(mask.shape[1], device=mask.device)
    is_right_padded = (is_real == (positions < lengths[:, None])).all(dim=1)
    if not is_right_padded.all():
        row = int((~is_right_padded).nonzero()[0, 0])
        raise InputError(f"row {row} of the attention mask has padding before a real token; pad on the right")
    return lengths


@cache
def mixers() -> dict[str, type[Mixer]]:
    """Every mixer of this folder by its kind."""
    found: dict[str, type[Mixer]] = {}
    package = importlib.import_module("lab.core.mixers")
    for module_info in pkgutil.iter_modules(package.__path__):
        module = importlib.import_module(f"lab.core.mixers.{module_info.name}")
        for value in vars(module).values():
            is_mixer = isinstance(value, type) and issubclass(value, Mixer) and value is not Mixer
            if is_mixer and value.__module__ == module.__name__:
                assert value.kind not in found, f"two mixers are called {value.kind}"
                found[value.kind] = value
    return found
