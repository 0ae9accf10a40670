"""Initial weights of a mixer from those of the attention it replaces (arXiv 2502.13145, section 4.1)."""

import math
from collections.abc import Sequence
from enum import Enum

import torch
from jaxtyping import Float64
from torch import Tensor


class Initialisation(Enum):
    """The three initialisations that mmMamba compares (table 4); the output projection is always the attention's."""

    scratch = "scratch"
    """Everything else is random."""
    inherit = "inherit"
    """Query, key and value projections are the attention's too."""
    mimic = "mimic"
    """New parameters also start close to attention: the convolution is the identity, step sizes do not depend on the
    token, and memory is long."""


class Draw:
    """Random and constant tensors in the dtype and on the device of another tensor.

    Random numbers are drawn in float32 on the generator's device, so a seed gives the same weights everywhere, up to
    rounding to their dtype. On the meta device nothing is drawn.
    """

    def __init__(self, generator: torch.Generator, *, like: Tensor) -> None:
        self._generator = generator
        self._like = like

    def uniform(self, size: Sequence[int], low: float, high: float) -> Tensor:
        """Uniform on [low, high)."""
        return self.placed(self._unit(size) * (high - low) + low)

    def log_uniform(self, size: Sequence[int], low: float, high: float) -> Float64[Tensor, "..."]:
        """Uniform on a logarithmic scale between `low` and `high`, in float64."""
        return torch.exp(self._unit(size).double() * math.log(high / low) + math.log(low))

    def fresh(self, size: Sequence[int], *, fan_in: int) -> Tensor:
        """As torch initialises linear and convolutional layers: uniform within 1 / sqrt(fan_in)."""
        return self.uniform(size, -1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in))

    def full(self, size: Sequence[int], value: float) -> Tensor:
        """The same value everywhere."""
        return self._like.new_full(tuple(size), value)

    def placed(self, tensor: Tensor) -> Tensor:
        """The tensor in the dtype and on the device of the weights."""
        return tensor.to(device=self._like.device, dtype=self._like.dtype)

    def _unit(self, size: Sequence[int]) -> Tensor:
        if self._like.is_meta:
            return self._like.new_empty(tuple(size), dtype=torch.float32)
        return torch.rand(tuple(size), generator=self._generator, device=self._generator.device)
