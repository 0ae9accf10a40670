"""Rotary position embedding (Su et al., arXiv 2104.09864); channel i turns with channel i + Q/2."""

# Letters: B batch, T tokens, G groups of R heads, P head_dim, Q channels of a head that turn.

import math
from dataclasses import MISSING, dataclass, fields
from enum import Enum
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lab.core.decoding.writer import Turns
from lab.core.errors import ConfigError, InputError
from lab.core.fused.rotation import rotated
from lab.core.operators.packing import Packing
from lab.core.ranges import LARGEST_COUNT, refuse_outside


class RotaryKind(Enum):
    """How the angles are adapted to sequences longer than those of the (original) training."""

    plain = "plain"
    linear = "linear"
    dynamic = "dynamic"
    llama3 = "llama3"
    yarn = "yarn"
    longrope = "longrope"


# the keys that each kind reads besides theta, max_length and fraction
_KEYS = {
    RotaryKind.plain: (),
    RotaryKind.linear: ("factor",),
    RotaryKind.dynamic: ("factor",),
    RotaryKind.llama3: ("factor", "original_length", "low_freq_factor", "high_freq_factor"),
    RotaryKind.yarn: ("factor", "original_length", "attention_factor", "beta_fast", "beta_slow", "truncate"),
    RotaryKind.longrope: ("factor", "original_length", "attention_factor", "short_factors", "long_factors"),
}


@dataclass(kw_only=True, slots=True)
class RotaryConfig:
    """Token t turns channel pair i by the angle t f_i; plain: f_i = theta^(-2i/Q)."""

    theta: float
    """Base of the frequencies."""
    max_length: int
    """Tokens of the longest sequence that the model was trained on."""
    fraction: float = 1.0
    """Fraction of a head's channels that turn, Q / P: the first ones; the others carry no position."""
    kind: RotaryKind = RotaryKind.plain
    """linear divides every position by `factor`; dynamic (NTK-aware) raises theta once a sequence is longer than
    `max_length`; llama3 and yarn divide low frequencies by `factor`; longrope divides each frequency by its own
    factor."""
    factor: float = 1.0
    """Scaling factor of every kind but plain, for which it is 1."""
    original_length: int | None = None
    """llama3, yarn, longrope: tokens of the longest sequence before the context was extended."""
    low_freq_factor: float = 1.0
    """llama3: frequencies with fewer turns than this in `original_length` tokens are divided by `factor`."""
    high_freq_factor: float = 4.0
    """llama3: frequencies with more turns than this in `original_length` tokens are kept; linear in between."""
    beta_fast: float = 32.0
    """yarn: frequencies with more turns than this in `original_length` tokens are kept."""
    beta_slow: float = 1.0
    """yarn: frequencies with fewer turns than this are divided by `factor`; a ramp over the channels in between."""
    truncate: bool = True
    """yarn: whether the two ends of the ramp are rounded to whole channels."""
    attention_factor: float | None = None
    """yarn, longrope: cosines and sines are multiplied by it; null: by the formula of the method's paper."""
    short_factors: list[float] | None = None
    """longrope: divisors of the Q/2 frequencies in sequences of at most `original_length` tokens."""
    long_factors: list[float] | None = None
    """longrope: the same for longer sequences."""

    def __post_init__(self) -> None:
        kind = self.kind.value
        refuse_outside(self, "theta", above=0, at_most=1e15, hint="10000 is usual")
        refuse_outside(self, "max_length", "original_length", at_least=1, at_most=LARGEST_COUNT)
        refuse_outside(self, "fraction", above=0, at_most=1)
        refuse_outside(self, "factor", at_least=1, at_most=1e6)
        positive = ("low_freq_factor", "high_freq_factor", "beta_fast", "beta_slow", "attention_factor")
        refuse_outside(self, *positive, "short_factors", "long_factors", above=0, at_most=1e6)
        for key, value in _scaling(self).items():
            if key not in _KEYS[self.kind] and value != _DEFAULTS[key]:
                readers = ", ".join(other.value for other, keys in _KEYS.items() if key in keys)
                raise ConfigError(f"rotary.{key}={value} with kind={kind}: it is for kind={readers}; leave it out")
        if "original_length" in _KEYS[self.kind] and (self.original_length is None or self.original_length < 2):
            raise ConfigError(f"rotary.original_length={self.original_length} must be 2 or more with kind={kind}")
        if self.high_freq_factor <= self.low_freq_factor:
            raise ConfigError(
                f"rotary.high_freq_factor={self.high_freq_factor:g} must be above "
                f"low_freq_factor={self.low_freq_factor:g}"
            )
        if self.kind is RotaryKind.longrope and (self.short_factors is None or self.long_factors is None):
            raise ConfigError("rotary.kind=longrope needs short_factors and long_factors")

    @property
    def depends_on_length(self) -> bool:
        """Whether the angles of all tokens depend on the length of the sequence; see `Rotary`."""
        return self.kind in (RotaryKind.dynamic, RotaryKind.longrope)

    @property
    def longest(self) -> int | None:
        """The longest sequence that may be asked for; None: any, since the angles adapt."""
        if self.kind is RotaryKind.dynamic:
            return None
        if self.kind is RotaryKind.yarn:
            assert self.original_length is not None, "checked above"
            # files give the length before (Qwen2.5) or after the extension as the longest
            return max(self.max_length, int(self.original_length * self.factor))
        return int(self.max_length * self.factor) if self.kind is RotaryKind.linear else self.max_length


def _scaling(config: RotaryConfig) -> dict[str, Any]:
    """The keys that only some kinds read, and their values."""
    return {key: getattr(config, key) for key in _DEFAULTS}


_DEFAULTS = {
    field.name: field.default
    for field in fields(RotaryConfig)
    if field.default is not MISSING and field.name not in ("kind", "fraction")
}


class Angles(NamedTuple):
    """Cosine and sine of each token's angles, times the attention factor."""

    cos: Float[Tensor, "T Q_half"]
    sin: Float[Tensor, "T Q_half"]


class Rotary:
    """Angles of a stack of layers, computed once and shared by all of them.

    The angles of dynamic and longrope depend on the length of the whole sequence, for every token of it: dynamic uses
    theta ((factor length / max_length) - (factor - 1))^(Q / (Q - 2)) beyond `max_length`, longrope one list of divisors
    up to `original_length` and another beyond. A sequence that is decoded step by step has the length that its state
    was allocated for: cached keys stay valid, and every step equals the forward pass of a sequence of that length.
    """

    def __init__(self, config: RotaryConfig, *, head_dim: int) -> None:
        """The angles of heads of `head_dim` channels.

        Raises:
            ConfigError: if the channels that turn are not an even number of 4 or more, or longrope has other divisors
                than one for each pair.
        """
        width = int(head_dim * config.fraction)
        if width % 2 or width < 4:
            share = "" if config.fraction == 1 else f" with rotary.fraction={config.fraction:g} turns {width} channels,"
            raise ConfigError(f"head_dim={head_dim}{share} must be even and 4 or more for rotary embedding")
        for name in ("short_factors", "long_factors"):
            factors = getattr(config, name)
            if factors is not None and (len(factors) != width // 2 or min(factors) <= 0):
                raise ConfigError(f"rotary.{name} must be {width // 2} positive numbers, one for each pair of channels")
        self.config = config
        self.head_dim = head_dim
        self.width = width
        self._angles: Angles | None = None
        self._made_for: tuple[float, bool, torch.device, torch.dtype] | None = None

    def angles(self, start: int, stop: int, *, length: int, like: Tensor) -> Angles:
        """Angles of tokens start .. stop - 1 of a sequence of `length` tokens, on the device of `like`.

        They are float32, or float64 if `like` is.

        Raises:
            InputError: if the sequence is longer than the model can take.
        """
        self._refuse_too_long(stop)
        dtype = torch.promote_types(like.dtype, torch.float32)
        theta, is_long = self._theta(length), self._is_long(length)
        wanted = (theta, is_long, like.device, dtype)
        if self._angles is None or self._made_for != wanted or self._angles.cos.shape[0] < stop:
            # a table made under inference_mode could not be used in training later
            with torch.inference_mode(False), torch.no_grad():
                # float64: float32 angles are off by 1e-3 at the end of a long sequence
                positions = torch.arange(max(stop, length), dtype=torch.float64, device=like.device)
                turns = torch.outer(positions, self._frequencies(theta, is_long=is_long).to(like.device))
                scale = attention_factor(self.config)
                self._angles = Angles((scale * turns.cos()).to(dtype), (scale * turns.sin()).to(dtype))
            self._made_for = wanted
        return Angles(self._angles.cos[start:stop], self._angles.sin[start:stop])

    def packed_angles(self, packing: Packing, *, like: Tensor) -> Angles:
        """Angles of packed sequences, which all count as long as the longest, as rows of a padded batch do.

        Raises:
            InputError: if that is longer than the model can take.
        """
        angles = self.angles(0, packing.longest, length=packing.longest, like=like)
        return Angles(angles.cos[packing.positions], angles.sin[packing.positions])

    def turns(self, length: int) -> Turns:
        """The angles of all tokens of a sequence of `length`, as far as the model can take it, in float32."""
        longest = self.config.longest
        most = length if longest is None else min(length, longest)
        return Turns(*self.angles(0, most, length=length, like=torch.empty(0)))

    def divisors(self) -> Float[Tensor, " Q_half"]:
        """What each frequency of a plain embedding of the same base is divided by, before the context was extended."""
        theta = self.config.theta
        plain = RotaryConfig(theta=theta, max_length=self.config.max_length, fraction=self.config.fraction)
        usual = Rotary(plain, head_dim=self.head_dim)._frequencies(theta, is_long=False)
        return usual / self._frequencies(theta, is_long=False)

    def _theta(self, length: int) -> float:
        config = self.config
        if config.kind is not RotaryKind.dynamic or length <= config.max_length:
            return config.theta
        stretch = config.factor * length / config.max_length - (config.factor - 1)
        return config.theta * stretch ** (self.width / (self.width - 2))

    def _is_long(self, length: int) -> bool:
        original = self.config.original_length
        return self.config.kind is RotaryKind.longrope and original is not None and length > original

    def _frequencies(self, theta: float, *, is_long: bool) -> Float[Tensor, " Q_half"]:
        """f_i in radians a token, float64 on the CPU."""
        config = self.config
        plain = theta ** -(torch.arange(0, self.width, 2, dtype=torch.float64) / self.width)
        if config.kind is RotaryKind.longrope:
            return plain / torch.tensor(config.long_factors if is_long else config.short_factors, dtype=torch.float64)
        if config.kind is RotaryKind.llama3:
            kept = _kept_by_llama3(plain, config)
        elif config.kind is RotaryKind.yarn:
            kept = _kept_by_yarn(self.width, config)
        else:
            return plain / config.factor if config.kind is RotaryKind.linear else plain
        return kept * plain + (1 - kept) * plain / config.factor

    def _refuse_too_long(self, num_tokens: int) -> None:
        longest = self.config.longest
        if longest is not None and num_tokens > longest:
            raise InputError(
                f"the sequence has {num_tokens} tokens but the model was trained on at most {longest}; shorten the "
                "prompt or the answer, or scale the rotary embedding (kind=dynamic)"
            )


def attention_factor(config: RotaryConfig) -> float:
    """What cosines and sines are multiplied by, so that scores are multiplied by its square.

    yarn: 0.1 ln(factor) + 1 (Peng et al., arXiv 2309.00071, equation 22); longrope:
    sqrt(1 + ln(factor) / ln(original_length)) (Ding et al., arXiv 2402.13753).
    """
    if config.attention_factor is not None:
        return config.attention_factor
    if config.kind is RotaryKind.yarn:
        return yarn_scale(config.factor)
    if config.kind is RotaryKind.longrope:
        assert config.original_length is not None, "RotaryConfig checks it"
        return math.sqrt(1 + math.log(config.factor) / math.log(config.original_length))
    return 1.0


def yarn_scale(factor: float, weight: float = 1.0) -> float:
    """0.1 w ln(factor) + 1, by which YaRN multiplies cosines and sines."""
    return 0.1 * weight * math.log(factor) + 1


def _kept_by_llama3(frequencies: Float[Tensor, " Q_half"], config: RotaryConfig) -> Float[Tensor, " Q_half"]:
    """Share of each frequency that stays as it is (Llama 3.1); the rest is divided by `factor`."""
    assert config.original_length is not None, "RotaryConfig checks it"
    num_turns = config.original_length * frequencies / (2 * math.pi)
    low, high = config.low_freq_factor, config.high_freq_factor
    return ((num_turns - low) / (high - low)).clamp(0, 1)


def _kept_by_yarn(width: int, config: RotaryConfig) -> Float[Tensor, " Q_half"]:
    """Share of each frequency that stays as it is (arXiv 2309.00071, section 3.2); the rest is divided by `factor`."""
    assert config.original_length is not None, "RotaryConfig checks it"
    original = config.original_length

    def channel_of(num_turns: float) -> float:
        """The channel pair, a real number, that turns so often in the original length."""
        return width * math.log(original / (num_turns * 2 * math.pi)) / (2 * math.log(config.theta))

    low, high = channel_of(config.beta_fast), channel_of(config.beta_slow)
    if config.truncate:
        low, high = math.floor(low), math.ceil(high)
    # the bounds, width - 1 among them, and the least width of the ramp are those of the public code
    low, high = max(low, 0), min(high, width - 1)
    ramp = (torch.arange(width // 2, dtype=torch.float64) - low) / (high - low if high != low else 1e-3)
    return 1 - ramp.clamp(0, 1)


def rotate(x: Float[Tensor, "B T G R P"], angles: Angles) -> Float[Tensor, "B T G R P"]:
    """Turn the first Q channels of each head by their token's angles and keep the others.

    Computed in the precision of the angles, returned in that of `x`.
    """
    return rotated(x, angles.cos, angles.sin)
