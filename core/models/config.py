"""The architecture of a model: every number that its mathematics depends on, and nothing else.

A family of models describes its architectures by a dataclass that is a `ModelConfig`: a decoder by a subclass of
`DecoderConfig`, anything else by its parts.
"""

from dataclasses import dataclass, field
from enum import Enum
from typing import Any, ClassVar, Protocol, runtime_checkable

from lab.core.errors import ConfigError
from lab.core.mixers.base import MixerShape
from lab.core.mixers.rotary import RotaryConfig
from lab.core.ranges import LARGEST_COUNT, refuse_outside

# several times those of the largest public models
MOST_LAYERS = 1000
MOST_PIXELS = 10_000


class PixelShuffle(Enum):
    """Where four patches become one image token: before the holistic embedding, or between it and the LLM (HD)."""

    pre = "pre"
    post = "post"


@runtime_checkable
class Vision(Protocol):
    """How a model of any family reads images: a dataclass.

    Attributes:
        image_size: pixels of a side of a tile.
        num_channels: of its pixels.
        image_token_id: the token whose embedding an image token replaces.
    """

    image_size: int
    num_channels: int
    image_token_id: int

    @property
    def tokens_per_tile(self) -> int:
        """Image tokens of a tile of `image_size`."""
        ...

    @property
    def reads_every_patch(self) -> bool:
        """Whether the first layers read one token a patch (`Inputs.hd_tokens`), more than the last ones."""
        ...

    def num_weights(self, hidden_size: int) -> int:
        """Weights in front of a decoder of a width."""
        ...


@runtime_checkable
class ModelConfig(Protocol):
    """The architecture of a model of any family: a dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def vision(self) -> "Vision | None":
        """How images are read; None for a model of text only."""
        ...

    @property
    def decoders(self) -> "tuple[DecoderConfig, ...]":
        """The stacks of layers, in the order of computation; the last one has the output head."""
        ...


def max_length(config: ModelConfig) -> int:
    """Tokens of the longest sequence that a model was trained on."""
    return min(decoder.rotary.max_length for decoder in config.decoders)


@dataclass(kw_only=True, slots=True)
class DecoderConfig:
    """A stack of decoder layers, and the embeddings and output head around it."""

    num_layers: int
    hidden_size: int
    intermediate_size: int
    """Width of the SwiGLU."""
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    rms_norm_eps: float
    rotary: RotaryConfig
    qkv_bias: bool = False
    """Whether queries, keys and values have a bias (Qwen2)."""
    output_bias: bool = False
    """Whether the attention's output projection has a bias."""
    mlp_bias: bool = False
    """Whether the three projections of the SwiGLU have a bias."""
    qk_norm: bool = False
    """Whether each query and key is normed before its rotation (Qwen3)."""
    window: int | None = None
    """Tokens that a query sees in a layer with a sliding window, its own among them; null: no layer has one."""
    windowed_layers: list[int] | None = None
    """Numbers of the layers with the sliding window, from 0; null: all of them, if there is a window."""
    layers_without_rotary: list[int] = field(default_factory=list)
    """Numbers of the layers without rotary embedding, from 0 (SmolLM3)."""
    tie_output: bool = False
    """Whether the output head is the table of token embeddings."""

    def __post_init__(self) -> None:
        refuse_outside(self, "num_layers", at_least=1, at_most=MOST_LAYERS)
        sizes = ("hidden_size", "intermediate_size", "num_heads", "num_kv_heads", "head_dim", "vocab_size")
        refuse_outside(self, *sizes, at_least=1, at_most=LARGEST_COUNT)
        refuse_outside(self, "rms_norm_eps", above=0, at_most=1)
        if self.num_heads % self.num_kv_heads:
            raise ConfigError(f"num_heads={self.num_heads} must be a multiple of num_kv_heads={self.num_kv_heads}")
        refuse_outside(self, "window", at_least=1, at_most=LARGEST_COUNT, hint="null lets every token be seen")
        if self.window is None and self.windowed_layers:
            raise ConfigError(f"windowed_layers={self.windowed_layers} need a window")
        if self.windowed_layers is not None and set(self.windowed_layers) == set(range(self.num_layers)):
            # one way of saying it: architectures are compared
            self.windowed_layers = None
        for name in ("windowed_layers", "layers_without_rotary"):
            for index in getattr(self, name) or ():
                if not 0 <= index < self.num_layers:
                    raise ConfigError(f"{name} holds {index} but layers are 0 to {self.num_layers - 1}")

    @property
    def vision(self) -> None:
        """None: a decoder reads text only."""

    @property
    def decoders(self) -> "tuple[DecoderConfig, ...]":
        """The only stack."""
        return (self,)

    def window_of(self, layer: int) -> int | None:
        """The window of a layer; None if its queries see every token before them."""
        return self.window if self.windowed_layers is None or layer in self.windowed_layers else None

    def mixer_shape(self) -> MixerShape:
        """The sizes of a layer's mixer."""
        return MixerShape(
            hidden_size=self.hidden_size,
            num_heads=self.num_heads,
            num_kv_heads=self.num_kv_heads,
            head_dim=self.head_dim,
        )


@dataclass(kw_only=True, slots=True)
class VisionConfig:
    """How pixels become tokens."""

    image_size: int
    """Pixels of a side of a tile; the table of positions is for this size."""
    patch_size: int
    """Pixels of a side of a patch."""
    num_channels: int
    shuffle_factor: int
    """A square of this many patches a side becomes one image token."""
    pixel_shuffle: PixelShuffle
    image_token_id: int
    """The token whose embedding an image token replaces."""

    def __post_init__(self) -> None:
        refuse_outside(self, "image_size", at_least=1, at_most=MOST_PIXELS)
        refuse_outside(self, "patch_size", "num_channels", "shuffle_factor", at_least=1, at_most=MOST_PIXELS)
        refuse_outside(self, "image_token_id", at_least=0, at_most=LARGEST_COUNT)
        if self.image_size % (self.patch_size * self.shuffle_factor):
            raise ConfigError(
                f"vision.image_size={self.image_size} must be a multiple of patch_size={self.patch_size} times "
                f"shuffle_factor={self.shuffle_factor}"
            )

    @property
    def reads_every_patch(self) -> bool:
        """Whether the first layers read one token a patch (`Inputs.hd_tokens`), more than the last ones."""
        return self.pixel_shuffle is PixelShuffle.post

    def num_weights(self, hidden_size: int) -> int:
        """How many weights the projector of merged patches has, without norms and patch embedding."""
        return (self.shuffle_factor**2 + 1) * hidden_size**2

    @property
    def patches_per_side(self) -> int:
        """Patches along a side of a tile of `image_size`."""
        return self.image_size // self.patch_size

    @property
    def tokens_per_tile(self) -> int:
        """Image tokens of a tile of `image_size` in the LLM."""
        return (self.patches_per_side // self.shuffle_factor) ** 2
