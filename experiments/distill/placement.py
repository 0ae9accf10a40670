"""Which layers of a student stay softmax attention (arXiv 2502.13145, tables 5 and 6)."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from lab.core.errors import ConfigError
from lab.core.list_keys import settle_lists
from lab.core.ranges import refuse_outside


class Placement(Enum):
    """Head means the input side, tail the output side."""

    none = "none"
    """No layer stays softmax: the linear student."""
    all = "all"
    head_interleaved = "head_interleaved"
    """The first layer of every block of `number` layers."""
    tail_interleaved = "tail_interleaved"
    """The last layer of every block of `number` layers."""
    head_stacked = "head_stacked"
    """The first `number` layers."""
    tail_stacked = "tail_stacked"
    """The last `number` layers."""
    listed = "listed"
    """The layers in `layers`."""


_PATTERNS: dict[Placement, Callable[[int, int], range]] = {
    Placement.head_interleaved: lambda num_layers, every: range(0, num_layers, every),
    Placement.tail_interleaved: lambda num_layers, every: range(every - 1, num_layers, every),
    Placement.head_stacked: lambda num_layers, count: range(count),
    Placement.tail_stacked: lambda num_layers, count: range(num_layers - count, num_layers),
}


@dataclass(kw_only=True, slots=True)
class HybridConfig:
    """The layers that stay softmax attention, numbered through the embedding first, then the language model."""

    placement: Placement = Placement.none
    """A pattern, or `listed`."""
    number: int | None = None
    """Number of layers per block (interleaved) or in the stack (stacked)."""
    layers: Any = None
    """Layer numbers, one or a list, for `listed`."""

    def __post_init__(self) -> None:
        settle_lists(self, layers=int)
        is_pattern = self.placement in _PATTERNS
        if is_pattern != (self.number is not None):
            expected = "must be given" if is_pattern else "has no meaning"
            raise ConfigError(f"hybrid.number={self.number} {expected} with hybrid.placement={self.placement.value}")
        refuse_outside(self, "number", at_least=1, hint="placement=none keeps no layer")
        is_listed = self.placement is Placement.listed
        if is_listed != (self.layers is not None):
            expected = "must be given" if is_listed else "has no meaning"
            raise ConfigError(f"hybrid.layers={self.layers} {expected} with hybrid.placement={self.placement.value}")
        if self.layers is not None and len(set(self.layers)) < len(self.layers):
            raise ConfigError(f"hybrid.layers={self.layers} names a layer twice; name each once")


def softmax_layers(config: HybridConfig, num_layers: int) -> tuple[int, ...]:
    """The numbers of the layers that stay, in order.

    Raises:
        ConfigError: if the model has too few layers for the list or the pattern.
    """
    if config.placement is Placement.none:
        return ()
    if config.placement is Placement.all:
        return tuple(range(num_layers))
    if config.layers is not None:
        for index in config.layers:
            if not 0 <= index < num_layers:
                raise ConfigError(
                    f"hybrid.layers names layer {index} but the model has {num_layers}; give numbers from 0 to "
                    f"{num_layers - 1}, numbered through the embedding first"
                )
        return tuple(sorted(config.layers))
    assert config.number is not None, "HybridConfig checks it"
    if config.number > num_layers:
        raise ConfigError(f"hybrid.number={config.number} must be at most {num_layers}, the number of layers; lower it")
    return tuple(_PATTERNS[config.placement](num_layers, config.number))
