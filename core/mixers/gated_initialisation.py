"""Initial weights of mixers initialised from attention: projections, convolution, norm and gate."""

import math
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from lab.core.mixers.base import MixerShape
from lab.core.mixers.gated import GatedOptions
from lab.core.mixers.initialisation import Draw, Initialisation
from lab.core.mixers.softmax import unpack_qkv

# gain of the Xavier uniform initialisation of the gate
GATE_GAIN = 2**-2.5
# long-memory step sizes softplus(dt_bias) are log-uniform in this range: at rates of -e, memory lasts 4 to 370 tokens
MIN_STEP, MAX_STEP = 0.001, 0.1
# A_log when mimicking attention: decay rates of -e
MIMIC_A_LOG = 1.0


def initial_gated_weights(
    attention: Mapping[str, Tensor],
    shape: MixerShape,
    options: GatedOptions,
    initialisation: Initialisation,
    draw: Draw,
    *,
    gate_weight: float | None = None,
    states_per_head: int = 1,
) -> dict[str, Tensor]:
    """Initial values of everything but the recurrence and the output projection.

    The gate is drawn first, so it is the same for every initialisation.

    Args:
        attention: state_dict of a `SoftmaxAttention`.
        shape: its sizes.
        options: variants of the mixer.
        initialisation: which weights come from the attention, and how the convolution starts.
        draw: source of random and constant tensors.
        gate_weight: one value for all gate weights; None to draw them.
        states_per_head: recurrences of a head, whose gates are the same.
    """
    gate_size = (shape.num_heads * shape.head_dim, shape.hidden_size)
    bound = GATE_GAIN * math.sqrt(6 / sum(gate_size))
    gate = draw.uniform(gate_size, -bound, bound) if gate_weight is None else draw.full(gate_size, gate_weight)
    by_head = gate.view(shape.num_heads, 1, shape.head_dim, shape.hidden_size)
    weights = {
        "g_proj.weight": by_head.repeat(1, states_per_head, 1, 1).flatten(0, 2),
        "g_norm.weight": draw.full((states_per_head * shape.head_dim,), 1.0),
    }
    for name, tensor in attention.items():
        if name.startswith("wqkv."):
            ours = name.replace("wqkv", "vkq_proj")
            if initialisation is Initialisation.scratch:
                weights[ours] = draw.fresh(tensor.shape, fan_in=shape.hidden_size)
            else:
                q, k, v = unpack_qkv(tensor, shape)
                # rows in the order of the convolution's channels
                weights[ours] = torch.cat([v, k, q])
        elif name in ("q_norm.weight", "k_norm.weight") and options.qk_norm:
            is_scratch = initialisation is Initialisation.scratch
            weights[name] = draw.full(tensor.shape, 1.0) if is_scratch else tensor.clone()
    return weights | _convolution(shape, options, initialisation, draw)


def long_memory(draw: Draw, num_heads: int, *, timescales: int = 1) -> Float[Tensor, " E"]:
    """dt_bias whose softplus is log-uniform between `MIN_STEP` and `MAX_STEP`.

    With several timescales the states of a head, from slow to fast, share that range: each has an equal part of it on
    a logarithmic scale, in which all of them stand at the same place.
    """
    ratio = (MAX_STEP / MIN_STEP) ** (1 / timescales)
    slowest = draw.log_uniform((num_heads, 1), MIN_STEP, MIN_STEP * ratio)
    step_size = (slowest * ratio ** torch.arange(timescales, device=slowest.device)).flatten()
    # the inverse of softplus
    return draw.placed(step_size + torch.log(-torch.expm1(-step_size)))


def _convolution(
    shape: MixerShape, options: GatedOptions, initialisation: Initialisation, draw: Draw
) -> dict[str, Tensor]:
    """Identity taps, which pass the current token through (mimic), or torch's default initialisation."""
    if options.conv_kernel is None:
        return {}
    num_channels, num_taps = (shape.num_heads + 2 * shape.num_kv_heads) * shape.head_dim, options.conv_kernel
    if initialisation is Initialisation.mimic:
        taps = draw.full((num_channels, 1, num_taps), 0.0)
        # the last tap multiplies the current token
        taps[:, :, -1] = 1.0
        weights = {"conv1d.weight": taps}
        return weights | ({"conv1d.bias": draw.full((num_channels,), 0.0)} if options.conv_bias else {})
    weights = {"conv1d.weight": draw.fresh((num_channels, 1, num_taps), fan_in=num_taps)}
    return weights | ({"conv1d.bias": draw.fresh((num_channels,), fan_in=num_taps)} if options.conv_bias else {})
