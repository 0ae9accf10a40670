"""Gated DeltaNet (Yang, Kautz and Hatamizadeh, arXiv 2412.06464) as a replacement for attention.

The state is an associative memory: each token erases the value stored under its key, then writes its own. Keys and
queries have unit length; decay and write strength are new, as are norm and gate.
"""

# Letters: B batch, T tokens, D model width, H heads, G key/value heads, P head_dim of values, keys and queries.

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import softplus

from lab.core.decoding.writer import Normed, Writer, refuse_changed
from lab.core.delta_rule import gated_delta_rule
from lab.core.delta_rule.decode.step import step
from lab.core.mixers.base import AttentionTraits, Mixer, MixerShape
from lab.core.mixers.gated import (
    GATED_INHERITED,
    GATED_NEW,
    GATED_TAKES,
    GatedMixer,
    GatedOptions,
    Operands,
    wide,
)
from lab.core.mixers.gated_initialisation import MIMIC_A_LOG, initial_gated_weights, long_memory
from lab.core.mixers.initialisation import Draw, Initialisation
from lab.core.mixers.options import MixerOptions
from lab.core.mixers.recurrent_state import RecurrentState
from lab.core.mixers.spec import MixerSpec
from lab.core.mixers.stock_gated_deltanet import GATED_DELTANET_BLOCK
from lab.core.products.linear import Linear

# epsilon in the L2 norm of keys and queries, as in flash-linear-attention and Qwen3-Next
LENGTH_EPS = 1e-6
# decay rates are -U(1, 16), as in Mamba-2, unless the layer mimics attention
MIN_RATE, MAX_RATE = 1.0, 16.0


@dataclass(kw_only=True, slots=True)
class GatedDeltaNetKernels:
    """Backend of each operator: "auto" or a name listed by `lab doctor`."""

    delta_rule: str = "auto"
    delta_rule_step: str = "auto"
    causal_conv: str = "auto"
    causal_conv_step: str = "auto"


@dataclass(kw_only=True, slots=True)
class GatedDeltaNetOptions(GatedOptions):
    """Options of the layer."""

    kind: str = "gated_deltanet"
    kernels: GatedDeltaNetKernels = field(default_factory=GatedDeltaNetKernels)


class GatedDeltaNet(GatedMixer):
    """RMSNorm(y) * SiLU(W_g u), with S[t] = a S[t-1] (I - b k k') + b v k' and y = S[t] q / sqrt(P), head by head.

    The decay is a = exp(-exp(A_log) softplus(W_a u + dt_bias)), the write strength b = sigmoid(W_b u). Keys and values
    are shared by the heads of a group.
    """

    kind: ClassVar[str] = "gated_deltanet"
    options: GatedDeltaNetOptions

    def __init__(
        self,
        shape: MixerShape,
        *,
        options: GatedDeltaNetOptions | None = None,
        traits: AttentionTraits | None = None,
    ) -> None:
        """See `GatedMixer`."""
        super().__init__(shape, GatedDeltaNetOptions() if options is None else options, traits)

    def add_recurrence(self) -> None:
        """Decay and strength."""
        num_heads = self.shape.num_heads
        self.a_proj = Linear(self.shape.hidden_size, num_heads, bias=False)
        self.b_proj = Linear(self.shape.hidden_size, num_heads, bias=False)
        self.dt_bias = nn.Parameter(torch.zeros(num_heads))
        self.A_log = nn.Parameter(torch.ones(num_heads))

    def scan(
        self,
        u: Float[Tensor, "B T D"],
        operands: Operands,
        initial_state: Float[Tensor, "B H P P"] | None,
        cu_seqlens: Int[Tensor, " S1"] | None = None,
    ) -> tuple[Float[Tensor, "B T H P"], Float[Tensor, "S H P P"]]:
        """The gated delta rule over each sequence."""
        return gated_delta_rule(
            _unit(operands.q),
            _unit(operands.k),
            operands.v,
            self._log_decay(u),
            self._strength(u),
            scale=self.shape.head_dim**-0.5,
            initial_state=initial_state,
            cu_seqlens=cu_seqlens,
            backend=self.backends["delta_rule"],
        )

    def advance(
        self, u: Float[Tensor, "B 1 D"], operands: Operands, state: Float[Tensor, "B H P P"]
    ) -> Float[Tensor, "B 1 H P"]:
        """One step of the rule, in place."""
        y = step(
            state,
            _unit(operands.q)[:, 0],
            _unit(operands.k)[:, 0],
            operands.v[:, 0],
            self._log_decay(u)[:, 0],
            self._strength(u)[:, 0],
            scale=self.shape.head_dim**-0.5,
            backend=self.backends["delta_rule_step"],
        )
        return y[:, None]

    def write_recurrence(
        self, writer: Writer, u: Normed, vkq: Float[Tensor, "B C"], state: RecurrentState
    ) -> Float[Tensor, "B HP"]:
        """See `GatedMixer.write_recurrence`."""
        refuse_changed(self, GatedDeltaNet, "advance", "_log_decay", "_strength")
        a = writer.linear(u, self.a_proj, "decays")
        b = writer.linear(u, self.b_proj, "strengths")
        weights = (self.A_log, self.dt_bias)
        return writer.delta(vkq, (a, b), state.recurrent, weights, self.heads, "heads", unit_eps=LENGTH_EPS)

    def _log_decay(self, u: Float[Tensor, "B T D"]) -> Float[Tensor, "B T H"]:
        """In float32 or wider, since small errors in the rate compound over many tokens."""
        dtype = wide(self.A_log.dtype)
        return -self.A_log.to(dtype).exp() * softplus(self.a_proj(u).to(dtype) + self.dt_bias.to(dtype))

    def _strength(self, u: Float[Tensor, "B T D"]) -> Float[Tensor, "B T H"]:
        return torch.sigmoid(self.b_proj(u).to(wide(self.A_log.dtype)))


def _unit(x: Float[Tensor, "B T N P"]) -> Float[Tensor, "B T N P"]:
    """Each head divided by its L2 norm, computed in float32 or wider."""
    widened = x.to(wide(x.dtype))
    return (widened * torch.rsqrt(widened.square().sum(dim=-1, keepdim=True) + LENGTH_EPS)).to(x.dtype)


def _build(shape: MixerShape, options: MixerOptions, traits: AttentionTraits) -> Mixer:
    assert isinstance(options, GatedDeltaNetOptions), "the schema of the spec"
    return GatedDeltaNet(shape, options=options, traits=traits)


def _initial_weights(
    attention: Mapping[str, Tensor],
    shape: MixerShape,
    options: MixerOptions,
    initialisation: Initialisation,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """See `MixerSpec.initial_weights`.

    Mimicking attention uses the decay of a mimicking Mamba-2 layer, and a write strength of 1/2 for every token.
    """
    assert isinstance(options, GatedDeltaNetOptions), "the schema of the spec"
    draw = Draw(generator, like=attention["wo.weight"])
    weights = initial_gated_weights(attention, shape, options, initialisation, draw)
    heads, projection = (shape.num_heads,), (shape.num_heads, shape.hidden_size)
    if initialisation is Initialisation.mimic:
        return weights | {
            "a_proj.weight": draw.full(projection, 0.0),
            "b_proj.weight": draw.full(projection, 0.0),
            "dt_bias": long_memory(draw, shape.num_heads),
            "A_log": draw.full(heads, MIMIC_A_LOG),
        }
    return weights | {
        "a_proj.weight": draw.fresh(projection, fan_in=shape.hidden_size),
        "b_proj.weight": draw.fresh(projection, fan_in=shape.hidden_size),
        "dt_bias": long_memory(draw, shape.num_heads),
        "A_log": draw.uniform(heads, MIN_RATE, MAX_RATE).log(),
    }


DECAY = frozenset({"A_log", "dt_bias"})
SPEC = MixerSpec(
    kind=GatedDeltaNet.kind,
    options=GatedDeltaNetOptions,
    build=_build,
    initial_weights=_initial_weights,
    new=GATED_NEW | DECAY | {"a_proj.weight", "b_proj.weight"},
    inherited=GATED_INHERITED,
    decay=DECAY,
    takes=GATED_TAKES,
    stock=GATED_DELTANET_BLOCK,
)
