"""What a sequence mixer is: the part of a layer that lets a token see the ones before it."""

# Letters: B batch, T tokens, D model width, H heads, P head_dim.

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from lab.core.errors import InputError
from lab.core.mixers.options import MixerOptions
from lab.core.mixers.rotary import Rotary


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


@dataclass(frozen=True, kw_only=True, slots=True)
class AttentionTraits:
    """What an attention has besides its sizes; a mixer that takes its place carries it on or is refused.

    Attributes:
        qkv_bias: whether queries, keys and values have a bias.
        output_bias: whether the output projection has one.
        qk_norm_eps: of the RMSNorm of each query and key head; None without one.
        rotary: position embedding of queries and keys; None without one.
        window: tokens that a query sees, its own included; None for all before it.
        other: what else it has that no mixer carries on, in words, in the attention of one family; None for nothing.
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
    other: str | None = None

    def words(self, name: str) -> str:
        """What errors call one of `names`."""
        return self.WORDS[name] if self.other is None or name != "other" else self.other

    def names(self) -> frozenset[str]:
        """The traits that this attention has: keys of `WORDS`, and `other`."""
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


class Mixer(nn.Module, ABC):
    """A causal map of a normed sequence to a sequence, through heads and one output projection.

    `forward` is `output(head_outputs(u))`. Both halves are public because distillation compares head outputs before
    the output projection. Positions count from 0 and no position is masked: padding on the right changes nothing before
    it.
    """

    kind: ClassVar[str]
    """The mixer's name in configurations and tables."""
    is_attention: ClassVar[bool] = False
    """Whether it is softmax attention, which the layers of a teacher have."""
    options: MixerOptions | None = None
    """Variants, of a mixer that has some."""

    def __init__(self, shape: MixerShape) -> None:
        super().__init__()
        self.shape = shape

    @abstractmethod
    def head_outputs(self, u: Float[Tensor, "B T D"]) -> Float[Tensor, "B H T P"]:
        """The output of each head for each token, before the output projection."""

    @abstractmethod
    def output(self, head_outputs: Float[Tensor, "B H T P"]) -> Float[Tensor, "B T D"]:
        """The output projection of the concatenated head outputs."""

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

    @property
    def traits(self) -> AttentionTraits:
        """What is carried on where another mixer takes this one's place."""
        return AttentionTraits()

    @property
    def longest(self) -> int | None:
        """Tokens of the longest sequence that the mixer's positions were trained for; None: any number."""
        return None

    def choose_backends(self) -> dict[str, str]:
        """Settle the implementation of every operator for the device and dtype of the weights; their names.

        Raises:
            BackendError: if one that is asked for by name cannot run there.
        """
        return {}

    def forward(self, u: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        """The outputs of a whole sequence."""
        return self.output(self.head_outputs(u))


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
