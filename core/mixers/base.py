"""The interface of sequence mixers: the part of a layer in which a token reads the ones before it."""

# Letters: B batch, T tokens, D model width, H heads, P head_dim.

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields, replace
from typing import ClassVar, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lab.core.decoding.program import NoProgramError
from lab.core.decoding.writer import Normed, Writer
from lab.core.errors import InputError
from lab.core.mixers.options import MixerOptions
from lab.core.mixers.rotary import Rotary
from lab.core.operators.packing import Packing


@dataclass(kw_only=True, slots=True)
class MixerShape:
    """Sizes shared by all mixers of a layer, so that one can replace another."""

    hidden_size: int
    """D, width of the residual stream."""
    num_heads: int
    """H, number of output (and query) heads."""
    num_kv_heads: int
    """G, number of key/value heads; query head h reads key head h // (H / G)."""
    head_dim: int
    """P, channels per head."""

    def __post_init__(self) -> None:
        if self.num_kv_heads < 1 or self.num_heads % self.num_kv_heads:
            raise InputError(
                f"num_heads={self.num_heads} is not a multiple of num_kv_heads={self.num_kv_heads}; each key head "
                "serves the same number of query heads"
            )

    @property
    def heads_per_group(self) -> int:
        """H / G, the number of query heads per key head."""
        return self.num_heads // self.num_kv_heads


@dataclass(frozen=True, kw_only=True, slots=True)
class AttentionTraits:
    """Features of an attention besides its sizes; a mixer that replaces it must support them or is refused.

    Attributes:
        qkv_bias: whether queries, keys and values have a bias.
        output_bias: whether the output projection has one.
        qk_norm_eps: of the RMSNorm of each query and key head; None without one.
        rotary: position embedding of queries and keys; None without one.
        window: number of tokens a query sees, including its own; None for all before it.
        norm_eps: of the RMSNorm in front of it, which the norms of a mixer may take over; None if it is not known.
        other: a further feature of one family's attention that no mixer supports, in words; None if there is none.
    """

    WORDS: ClassVar[dict[str, str]] = {
        "qkv_bias": "biases on queries, keys and values",
        "output_bias": "a bias on its output projection",
        "qk_norm": "norms on queries and keys (QK-norm)",
        "rotary": "a rotary position embedding",
        "window": "a sliding window",
    }

    qkv_bias: bool = False
    output_bias: bool = False
    qk_norm_eps: float | None = None
    rotary: Rotary | None = None
    window: int | None = None
    norm_eps: float | None = None
    other: str | None = None

    def words(self, name: str) -> str:
        """The wording of one of `names` in errors."""
        return self.WORDS[name] if self.other is None or name != "other" else self.other

    def names(self) -> frozenset[str]:
        """The traits of this attention: keys of `WORDS`, and `other`."""
        has = {
            "qkv_bias": self.qkv_bias,
            "output_bias": self.output_bias,
            "qk_norm": self.qk_norm_eps is not None,
            "rotary": self.rotary is not None,
            "window": self.window is not None,
            "other": self.other is not None,
        }
        return frozenset(name for name, is_there in has.items() if is_there)


@dataclass(kw_only=True)
class MixerState(ABC):
    """A mixer's decoding state (recurrent state or cache); allocated once, updated in place.

    Attributes:
        length: tokens seen so far, the same in every row of the batch.
    """

    length: int = 0

    def row(self, index: int) -> Self:
        """The state of one row, empty: it shares memory with this one and counts its tokens by itself."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        rows = {name: value[index : index + 1] for name, value in values.items() if isinstance(value, Tensor)}
        return replace(self, **rows, length=0)

    def clear(self) -> None:
        """Forget all tokens."""
        for tensor in self.tensors():
            tensor.zero_()
        self.length = 0

    @abstractmethod
    def tensors(self) -> tuple[Tensor, ...]:
        """All tensors of the state."""

    @property
    def num_bytes(self) -> int:
        """Size of the whole allocation, including the unused part."""
        return sum(tensor.nbytes for tensor in self.tensors())


class Mixer(nn.Module, ABC):
    """A causal map from a normalised sequence to a sequence, through heads and one output projection.

    `forward` is `output(head_outputs(u))`. Both halves are public because distillation compares head outputs before
    the output projection. Positions start at 0 and none is masked: right padding does not change what precedes it.
    """

    kind: ClassVar[str]
    """The mixer's name in configurations and tables."""
    is_attention: ClassVar[bool] = False
    """Whether it is softmax attention, as in a teacher's layers."""
    options: MixerOptions | None = None
    """Options; None for a mixer without any."""

    def __init__(self, shape: MixerShape) -> None:
        super().__init__()
        self.shape = shape

    @abstractmethod
    def head_outputs(self, u: Float[Tensor, "B T D"]) -> Float[Tensor, "B H T P"]:
        """The output of each head for each token, before the output projection."""

    def packed_head_outputs(self, u: Float[Tensor, "1 T D"], packing: Packing) -> Float[Tensor, "1 H T P"]:
        """`head_outputs` of packed sequences, each as if it were alone; here one after the other."""
        return torch.cat([self.head_outputs(u[:, tokens]) for tokens in packing.slices()], dim=2)

    @abstractmethod
    def output(self, head_outputs: Float[Tensor, "B H T P"]) -> Float[Tensor, "B T D"]:
        """The output projection of the concatenated head outputs."""

    @abstractmethod
    def allocate_state(self, batch_size: int, *, max_length: int) -> MixerState:
        """An empty state for at most `max_length` tokens, on the device of the weights."""

    @abstractmethod
    def prefill(self, u: Float[Tensor, "B T D"], state: MixerState) -> Float[Tensor, "B T D"]:
        """The outputs of the next T tokens after those in `state`, which is updated.

        Raises:
            InputError: if they exceed the state's capacity.
        """

    @abstractmethod
    def step(self, u: Float[Tensor, "B 1 D"], state: MixerState) -> Float[Tensor, "B 1 D"]:
        """`prefill` of one token."""

    def write_step(self, writer: Writer, u: Normed, state: MixerState, x: Float[Tensor, "B D"]) -> None:
        """Append what `step` computes of `u` to a program, added to the residual stream `x`.

        Raises:
            NoProgramError: if there are no compiled steps for it; this mixer has none.
        """
        raise NoProgramError(f"{self.kind} layers have no compiled steps")

    @property
    def traits(self) -> AttentionTraits:
        """The features that a replacing mixer must support."""
        return AttentionTraits()

    @property
    def longest(self) -> int | None:
        """Longest sequence for which the position embedding was trained, in tokens; None if unlimited."""
        return None

    def choose_backends(self) -> dict[str, str]:
        """Choose the backend of every operator for the device and dtype of the weights; returns their names.

        Raises:
            BackendError: if one requested by name cannot run there.
        """
        return {}

    def forward(self, u: Float[Tensor, "B T D"], packing: Packing | None = None) -> Float[Tensor, "B T D"]:
        """The outputs of whole sequences: one a row, or packed."""
        return self.output(self.heads_of(u, packing))

    def heads_of(self, u: Float[Tensor, "B T D"], packing: Packing | None) -> Float[Tensor, "B H T P"]:
        """`head_outputs`, or `packed_head_outputs` if the sequences are packed."""
        return self.head_outputs(u) if packing is None else self.packed_head_outputs(u, packing)


def refuse_overflow(state: MixerState, num_tokens: int, max_length: int) -> None:
    """Refuse tokens that exceed a state's capacity.

    Raises:
        InputError: naming the remaining capacity.
    """
    if state.length + num_tokens > max_length:
        raise InputError(
            f"the state holds {state.length} of max_length={max_length} tokens and cannot take {num_tokens} more; "
            f"allocate it with max_length={state.length + num_tokens}"
        )
