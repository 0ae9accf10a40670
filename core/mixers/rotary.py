"""Rotary position embedding (Su et al., arXiv 2104.09864); channel i turns with channel i + P/2."""

# Letters: B batch, T tokens, G groups of R heads, P head_dim.

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lab.core.errors import ConfigError, InputError


class RotaryKind(Enum):
    """How the angles treat a sequence that is longer than those of the training."""

    plain = "plain"
    linear = "linear"
    dynamic = "dynamic"


@dataclass(kw_only=True, slots=True)
class RotaryConfig:
    """Token t turns channel pair i by the angle t theta^(-2i/P)."""

    theta: float
    """Base of the frequencies."""
    max_length: int
    """Tokens of the longest sequence that the model was trained on."""
    kind: RotaryKind = RotaryKind.plain
    """linear divides every position by `factor`; dynamic (NTK-aware) raises theta once a sequence is longer than
    `max_length`."""
    factor: float = 1.0
    """Scaling factor of linear and dynamic; 1 for plain."""

    def __post_init__(self) -> None:
        if self.theta <= 0:
            raise ConfigError(f"rotary.theta={self.theta:g} must be positive; 10000 is usual")
        if self.max_length < 1:
            raise ConfigError(f"rotary.max_length={self.max_length} must be 1 or more")
        if self.factor < 1 or (self.kind is RotaryKind.plain and self.factor != 1):
            raise ConfigError(
                f"rotary.factor={self.factor:g} with kind={self.kind.value}: give 1 to plain and 1 or more to others"
            )

    @property
    def longest(self) -> int | None:
        """The longest sequence that may be asked for; None: any, since the angles adapt."""
        return None if self.kind is RotaryKind.dynamic else int(self.max_length * self.factor)


class Angles(NamedTuple):
    """Cosine and sine of each token's angles."""

    cos: Float[Tensor, "T P_half"]
    sin: Float[Tensor, "T P_half"]


class Rotary:
    """Angles of a stack of layers, computed once and shared by all of them.

    The theta of the dynamic kind depends on the length of the whole sequence,
    theta ((factor length / max_length) - (factor - 1))^(P / (P - 2)) beyond `max_length`, for every token of it. A
    sequence that is decoded step by step has the length that its state was allocated for: cached keys stay valid, and
    every step equals the forward pass of a sequence of that length.
    """

    def __init__(self, config: RotaryConfig, *, head_dim: int) -> None:
        if head_dim % 2 or head_dim < 4:
            raise ConfigError(f"head_dim={head_dim} must be even and 4 or more for rotary embedding")
        self.config = config
        self.head_dim = head_dim
        self._angles: Angles | None = None
        self._made_for: tuple[float, torch.device, torch.dtype] | None = None

    def angles(self, start: int, stop: int, *, length: int, like: Tensor) -> Angles:
        """Angles of tokens start .. stop - 1 of a sequence of `length` tokens, on the device of `like`.

        They are float32, or float64 if `like` is.

        Raises:
            InputError: if the sequence is longer than the model can take.
        """
        self._refuse_too_long(stop)
        dtype = torch.promote_types(like.dtype, torch.float32)
        wanted = (self._theta(length), like.device, dtype)
        if self._angles is None or self._made_for != wanted or self._angles.cos.shape[0] < stop:
            # a table made under inference_mode could not be used in training later
            with torch.inference_mode(False), torch.no_grad():
                self._angles = self._make(max(stop, length), theta=wanted[0], device=like.device, dtype=dtype)
            self._made_for = wanted
        return Angles(self._angles.cos[start:stop], self._angles.sin[start:stop])

    def _theta(self, length: int) -> float:
        config = self.config
        if config.kind is not RotaryKind.dynamic or length <= config.max_length:
            return config.theta
        stretch = config.factor * length / config.max_length - (config.factor - 1)
        return config.theta * stretch ** (self.head_dim / (self.head_dim - 2))

    def _make(self, num_tokens: int, *, theta: float, device: torch.device, dtype: torch.dtype) -> Angles:
        # float64: float32 angles are off by 1e-3 at the end of a long sequence
        exponents = torch.arange(0, self.head_dim, 2, dtype=torch.float64, device=device) / self.head_dim
        positions = torch.arange(num_tokens, dtype=torch.float64, device=device)
        if self.config.kind is RotaryKind.linear:
            positions = positions / self.config.factor
        turns = torch.outer(positions, theta**-exponents)
        return Angles(turns.cos().to(dtype), turns.sin().to(dtype))

    def _refuse_too_long(self, num_tokens: int) -> None:
        longest = self.config.longest
        if longest is not None and num_tokens > longest:
            raise InputError(
                f"the sequence has {num_tokens} tokens but the model was trained on at most {longest}; shorten the "
                "prompt or the answer, or scale the rotary embedding (kind=dynamic)"
            )


def rotate(x: Float[Tensor, "B T G R P"], angles: Angles) -> Float[Tensor, "B T G R P"]:
    """Turn each pair of channels by its token's angle; in the precision of the angles, returned in that of `x`."""
    cos, sin = angles.cos[:, None, None], angles.sin[:, None, None]
    first, second = x.to(cos.dtype).chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x.dtype)
