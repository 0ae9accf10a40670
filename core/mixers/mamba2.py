"""The Mamba-2 mixer that replaces attention (mmMamba, arXiv 2502.13145, section 4).

Queries, keys and values of the attention become C, B and x of its state-space dual (Dao and Gu 2024). Step sizes and
decay rates are new.
"""

# Letters: B batch, T tokens, D model width, H heads, G key/value heads, P head_dim (the head_dim and the state_dim of
# the operator), R states of a head, E = H R states, Y = R P channels of a head's states, C channels of v, k and q.

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lab.core.decoding.program import NoProgramError
from lab.core.decoding.writer import Normed, Writer, refuse_changed
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
from lab.core.mixers.stock_mamba2 import MAMBA2_BLOCK
from lab.core.mixers.tensor_rules import TensorRule, Tensors, renamed
from lab.core.products.linear import Linear
from lab.core.ranges import refuse_outside
from lab.core.ssd import ssd
from lab.core.ssd.decode.step import step

# decay rates are -U(1, 16) unless the layer mimics attention
MIN_RATE, MAX_RATE = 1.0, 16.0


@dataclass(kw_only=True, slots=True)
class Mamba2Kernels:
    """Backend of each operator: "auto" or a name listed by `lab doctor`."""

    ssd: str = "auto"
    ssd_step: str = "auto"
    causal_conv: str = "auto"
    causal_conv_step: str = "auto"


@dataclass(kw_only=True, slots=True)
class Mamba2Options(GatedOptions):
    """Options of the layer; the defaults give mmMamba's layer."""

    kind: str = "mamba2"
    gate_at_one: bool = False
    """Whether the gate is 2 sigmoid(W_g u), which is 1 for W_g = 0, instead of SiLU(W_g u)."""
    skip: bool = False
    """Whether D times the value is added to each head's output (one weight D per head)."""
    norm_before_gate: bool = True
    """Whether each head is normed and then gated, or gated and then normed, as in stock Mamba-2 models."""
    timescales: int = 1
    """R, states of each head: 1, or 2, a slow and a fast one of the same keys, queries and values."""
    kernels: Mamba2Kernels = field(default_factory=Mamba2Kernels)

    def __post_init__(self) -> None:
        # without arguments, super() does not find a dataclass with slots
        GatedOptions.__post_init__(self)
        refuse_outside(self, "timescales", at_least=1, at_most=2, hint="a head has one state, or a slow and a fast one")

    @property
    def states_per_head(self) -> int:
        """See `MixerOptions.states_per_head`."""
        return self.timescales


class Mamba2(GatedMixer):
    """RMSNorm(y) * SiLU(W_g u) with y = SSD(x = v, B = k, C = q), head by head; RMSNorm(y * SiLU(W_g u)) gate first.

    For the same weights the two outputs of a head have the same direction and differ by a positive factor.
    Keys and values are shared by the heads of a group. Step sizes are softplus(W_dt u + dt_bias), decay rates
    -exp(A_log). There is no position embedding by default; the norm replaces 1 / sqrt(P) and the softmax normaliser.

    With two timescales a head has two states, whose step sizes, decay rates and gates are their own. Their 2 P channels
    are normed as one, and the head's output is the mean of the two halves: that of one state where both are the same.
    """

    kind: ClassVar[str] = "mamba2"
    options: Mamba2Options

    def __init__(
        self, shape: MixerShape, *, options: Mamba2Options | None = None, traits: AttentionTraits | None = None
    ) -> None:
        """See `GatedMixer`; the default options give mmMamba's layer."""
        super().__init__(shape, Mamba2Options() if options is None else options, traits)

    def add_recurrence(self) -> None:
        """Step sizes, decay rates and the skip connection."""
        num_states = self.states_per_head * self.shape.num_heads
        self.in_proj = Linear(self.shape.hidden_size, num_states, bias=False)
        self.dt_bias = nn.Parameter(torch.zeros(num_states))
        self.A_log = nn.Parameter(torch.ones(num_states))
        self.D = nn.Parameter(torch.ones(num_states)) if self.options.skip else None

    def scan(
        self,
        u: Float[Tensor, "B T D"],
        operands: Operands,
        initial_state: Float[Tensor, "B E P P"] | None,
        cu_seqlens: Int[Tensor, " S1"] | None = None,
    ) -> tuple[Float[Tensor, "B T H Y"], Float[Tensor, "S E P P"]]:
        """The state-space operator over each sequence."""
        y, final_state = ssd(
            self._repeated(operands.v, self.states_per_head),
            self.in_proj(u),
            self._decay_rates(),
            # B and C must have the same number of groups, and queries differ within a group: repeat keys like values
            self._repeated(operands.k),
            operands.q,
            D=self.D,
            dt_bias=self.dt_bias,
            dt_softplus=True,
            initial_state=initial_state,
            cu_seqlens=cu_seqlens,
            backend=self.backends["ssd"],
        )
        return self._by_head(y), final_state

    def advance(
        self, u: Float[Tensor, "B 1 D"], operands: Operands, state: Float[Tensor, "B E P P"]
    ) -> Float[Tensor, "B 1 H Y"]:
        """One step of the operator, in place."""
        y = step(
            state,
            self._repeated(operands.v, self.states_per_head)[:, 0],
            self.in_proj(u)[:, 0],
            self._decay_rates(),
            self._repeated(operands.k)[:, 0],
            operands.q[:, 0],
            D=self.D,
            dt_bias=self.dt_bias,
            dt_softplus=True,
            backend=self.backends["ssd_step"],
        )
        return self._by_head(y[:, None])

    @property
    def norm_before_gate(self) -> bool:
        """See `GatedMixer.norm_before_gate`."""
        return self.options.norm_before_gate

    def gate(self, heads: Float[Tensor, "B T H Y"], logits: Float[Tensor, "B T H Y"]) -> Float[Tensor, "B T H Y"]:
        """Times SiLU(W_g u), or 2 sigmoid(W_g u)."""
        return heads * (2 * torch.sigmoid(logits)) if self.options.gate_at_one else super().gate(heads, logits)

    def write_recurrence(
        self, writer: Writer, u: Normed, vkq: Float[Tensor, "B C"], state: RecurrentState
    ) -> Float[Tensor, "B HP"]:
        """See `GatedMixer.write_recurrence`."""
        refuse_changed(self, Mamba2, "advance", "gate", "norm_before_gate", "_repeated", "_by_head", "_decay_rates")
        if self.states_per_head > 1:
            raise NoProgramError(f"timescales={self.states_per_head} has no compiled steps")
        dt = writer.linear(u, self.in_proj, "step sizes")
        weights = (self.A_log, self.dt_bias, self.D)
        return writer.ssd(vkq, dt, state.recurrent, weights, self.heads, "heads")

    def write_gate(self, writer: Writer, y: Float[Tensor, "B HP"], logits: Float[Tensor, "B HP"]) -> None:
        """See `GatedMixer.write_gate`."""
        is_sigmoid, norm_first = self.options.gate_at_one, self.norm_before_gate
        writer.gate(y, logits, self.g_norm, self.heads, is_sigmoid=is_sigmoid, norm_first=norm_first)

    def _repeated(self, part: Float[Tensor, "B T G P"], states: int = 1) -> Float[Tensor, "B T E P"]:
        """Each key or value head repeated for every query head, and state, that reads it; no copy if that is one."""
        return part[:, :, :, None].expand(-1, -1, -1, states * self.shape.heads_per_group, -1).flatten(2, 3)

    def _by_head(self, y: Float[Tensor, "B T E P"]) -> Float[Tensor, "B T H Y"]:
        """The outputs of the states of each head beside each other."""
        return y.reshape(*y.shape[:2], self.shape.num_heads, -1)

    def _decay_rates(self) -> Float[Tensor, " H"]:
        """A, in float32 or wider, since small errors in the rate compound over many tokens."""
        return -torch.exp(self.A_log.to(wide(self.A_log.dtype)))


def _build(shape: MixerShape, options: MixerOptions, traits: AttentionTraits) -> Mixer:
    assert isinstance(options, Mamba2Options), "the schema of the spec"
    return Mamba2(shape, options=options, traits=traits)


def _initial_weights(
    attention: Mapping[str, Tensor],
    shape: MixerShape,
    options: MixerOptions,
    initialisation: Initialisation,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """See `MixerSpec.initial_weights`."""
    assert isinstance(options, Mamba2Options), "the schema of the spec"
    draw = Draw(generator, like=attention["wo.weight"])
    gate_weight = 0.0 if options.gate_at_one else None
    weights = initial_gated_weights(
        attention, shape, options, initialisation, draw, gate_weight=gate_weight, states_per_head=options.timescales
    )
    num_states = options.timescales * shape.num_heads
    if initialisation is Initialisation.mimic:
        weights |= {
            "in_proj.weight": draw.full((num_states, shape.hidden_size), 0.0),
            "dt_bias": long_memory(draw, shape.num_heads, timescales=options.timescales),
            "A_log": draw.full((num_states,), MIMIC_A_LOG),
        }
    else:
        weights |= {
            "in_proj.weight": draw.fresh((num_states, shape.hidden_size), fan_in=shape.hidden_size),
            "dt_bias": draw.full((num_states,), 0.0),
            "A_log": draw.uniform((num_states,), MIN_RATE, MAX_RATE).log(),
        }
    return weights | ({"D": draw.full((num_states,), 1.0)} if options.skip else {})


def _tensor_rules(mixer: Mixer, public: str, ours: str) -> list[TensorRule]:
    """mmMamba's release: one fused projection with the rows of v, k, q, gate and step sizes, in this order."""
    assert isinstance(mixer, Mamba2), "the mixer of the spec"
    fused = ("vkq_proj", "g_proj", "in_proj")
    num_rows = [projection.out_features for projection in (mixer.vkq_proj, mixer.g_proj, mixer.in_proj)]

    def fuse(tensors: Tensors) -> Tensors:
        return [torch.cat(list(tensors))]

    def split(tensors: Tensors) -> Tensors:
        # cloned: each is trained separately
        return [part.clone() for part in torch.split(tensors[0], num_rows)]

    # the release has no biases or QK-norm, hence no names for them
    released = {"vkq_proj.bias": "vkq_bias", "A_log": "A_log_bias", "g_norm.weight": "g_norm_swish_gate.weight"}
    parts = tuple(f"{name}.weight" for name in fused)
    names = {released.get(name, name): name for name, _ in mixer.named_parameters() if name not in parts}
    rule = TensorRule((f"{public}.wvkqgdt.weight",), tuple(f"{ours}.{part}" for part in parts), split, fuse)
    return [rule, *renamed(public, ours, names)]


DECAY = frozenset({"A_log", "dt_bias"})
SPEC = MixerSpec(
    kind=Mamba2.kind,
    options=Mamba2Options,
    build=_build,
    initial_weights=_initial_weights,
    new=GATED_NEW | DECAY | {"in_proj.weight", "D"},
    inherited=GATED_INHERITED,
    decay=DECAY,
    takes=GATED_TAKES,
    tensor_rules=_tensor_rules,
    in_mmmamba=True,
    stock=MAMBA2_BLOCK,
)
