"""From an attention's weights to those of the Mamba-2 mixer that takes its place (arXiv 2502.13145, section 4.1)."""

import math
from collections.abc import Mapping, Sequence
from enum import Enum

import torch
from jaxtyping import Float64
from torch import Tensor

from lab.core.mixers.base import MixerShape
from lab.core.mixers.mamba2 import Mamba2Options
from lab.core.mixers.softmax import unpack_qkv

# softplus(dt_bias) of a mixer that mimics attention is log-uniform between these, so that memory lasts 4 to 370 tokens
MIN_STEP, MAX_STEP = 0.001, 0.1
# A_log of a mixer that mimics attention: rates of -e
MIMIC_A_LOG = 1.0
# decay rates of one that does not are -U(1, 16), Mamba-2's own
MIN_RATE, MAX_RATE = 1.0, 16.0
# of Xavier's uniform law, for the gate
GATE_GAIN = 2**-2.5


class Initialisation(Enum):
    """The three seeds that the paper compares (table 4); the output projection is the attention's in all of them."""

    scratch = "scratch"
    """Everything else is random."""
    inherit = "inherit"
    """Queries, keys and values are the attention's too."""
    mimic = "mimic"
    """The new parameters, too, start where they disturb least: the convolution passes its input on, step sizes do not
    depend on the token, and memory is long."""


def seed(
    attention: Mapping[str, Tensor],
    shape: MixerShape,
    *,
    options: Mamba2Options,
    initialisation: Initialisation,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """The weights of a mixer but for its output projection, by name; none shares memory with the attention's.

    Random numbers are drawn in float32 on the generator's device: a seed means the same weights everywhere, up to
    their rounding. The gate is drawn first and so is the same for every initialisation.

    Args:
        attention: state_dict of a `SoftmaxAttention`.
        shape: its sizes.
        options: variants of the mixer.
        initialisation: what is taken from the attention, and what the new parameters are.
        generator: of random weights.
    """
    draw = _Draw(generator, like=attention["wo.weight"])
    gate = _gate(draw, shape, options)
    if initialisation is Initialisation.scratch:
        names = [name for name in attention if name.startswith("wqkv.")]
        projection = {_of_vkq(name): draw.fresh(attention[name].shape, fan_in=shape.hidden_size) for name in names}
    else:
        projection = _inherited(attention, shape)
    is_mimic = initialisation is Initialisation.mimic
    dynamics = (_mimicking if is_mimic else _as_in_mamba2)(draw, shape, options)
    return gate | projection | dynamics


class _Draw:
    """Random and constant tensors of the dtype and on the device of another."""

    def __init__(self, generator: torch.Generator, *, like: Tensor) -> None:
        self._generator = generator
        self._like = like

    def uniform(self, size: Sequence[int], low: float, high: float) -> Tensor:
        return self.placed(self._unit(size) * (high - low) + low)

    def log_uniform(self, size: Sequence[int], low: float, high: float) -> Float64[Tensor, "..."]:
        return torch.exp(self._unit(size).double() * math.log(high / low) + math.log(low))

    def fresh(self, size: Sequence[int], *, fan_in: int) -> Tensor:
        """By the law of torch's linear and convolutional layers."""
        return self.uniform(size, -1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in))

    def full(self, size: Sequence[int], value: float) -> Tensor:
        return self._like.new_full(tuple(size), value)

    def placed(self, tensor: Tensor) -> Tensor:
        return tensor.to(device=self._like.device, dtype=self._like.dtype)

    def _unit(self, size: Sequence[int]) -> Tensor:
        if self._like.is_meta:
            # shapes alone need no numbers
            return self._like.new_empty(tuple(size), dtype=torch.float32)
        return torch.rand(tuple(size), generator=self._generator, device=self._generator.device)


def _gate(draw: _Draw, shape: MixerShape, options: Mamba2Options) -> dict[str, Tensor]:
    width = shape.num_heads * shape.head_dim
    size = (width, shape.hidden_size)
    bound = GATE_GAIN * math.sqrt(6 / sum(size))
    weight = draw.full(size, 0.0) if options.gate_at_one else draw.uniform(size, -bound, bound)
    return {"g_proj.weight": weight, "g_norm.weight": draw.full((shape.head_dim,), 1.0)}


def _inherited(attention: Mapping[str, Tensor], shape: MixerShape) -> dict[str, Tensor]:
    """Rows of the packed projection in the order of the convolution's channels: v, k, q."""
    projection = {}
    for name, packed in attention.items():
        if name.startswith("wqkv."):
            q, k, v = unpack_qkv(packed, shape)
            projection[_of_vkq(name)] = torch.cat([v, k, q])
    return projection


def _mimicking(draw: _Draw, shape: MixerShape, options: Mamba2Options) -> dict[str, Tensor]:
    """New parameters that disturb least."""
    weights = {}
    if options.conv_kernel is not None:
        taps = draw.full((_num_channels(shape), 1, options.conv_kernel), 0.0)
        # the last tap meets the current token
        taps[:, :, -1] = 1.0
        weights = {"conv1d.weight": taps, "conv1d.bias": draw.full((_num_channels(shape),), 0.0)}
    step_size = draw.log_uniform((shape.num_heads,), MIN_STEP, MAX_STEP)
    # the inverse of softplus
    dt_bias = step_size + torch.log(-torch.expm1(-step_size))
    return {
        **weights,
        "in_proj.weight": draw.full((shape.num_heads, shape.hidden_size), 0.0),
        "dt_bias": draw.placed(dt_bias),
        "A_log": draw.full((shape.num_heads,), MIMIC_A_LOG),
        **_skip(draw, shape, options),
    }


def _as_in_mamba2(draw: _Draw, shape: MixerShape, options: Mamba2Options) -> dict[str, Tensor]:
    """New parameters by the laws of a Mamba-2 layer that is trained from nothing."""
    weights = {}
    if options.conv_kernel is not None:
        num_channels, fan_in = _num_channels(shape), options.conv_kernel
        weights = {
            "conv1d.weight": draw.fresh((num_channels, 1, fan_in), fan_in=fan_in),
            "conv1d.bias": draw.fresh((num_channels,), fan_in=fan_in),
        }
    return {
        **weights,
        "in_proj.weight": draw.fresh((shape.num_heads, shape.hidden_size), fan_in=shape.hidden_size),
        "dt_bias": draw.full((shape.num_heads,), 0.0),
        "A_log": draw.uniform((shape.num_heads,), MIN_RATE, MAX_RATE).log(),
        **_skip(draw, shape, options),
    }


def _skip(draw: _Draw, shape: MixerShape, options: Mamba2Options) -> dict[str, Tensor]:
    return {"D": draw.full((shape.num_heads,), 1.0)} if options.skip else {}


def _num_channels(shape: MixerShape) -> int:
    return (shape.num_heads + 2 * shape.num_kv_heads) * shape.head_dim


def _of_vkq(name: str) -> str:
    """Where the part `wqkv.weight` or `wqkv.bias` of an attention goes."""
    return name.replace("wqkv", "vkq_proj")
