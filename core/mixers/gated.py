"""Base of mixers initialised from attention: short convolution of values, keys and queries, gated norm, decoding.

mmMamba (arXiv 2502.13145, section 4) keeps the attention's projections and adds a short convolution before the
recurrence and a norm and a gate after it. Subclasses define the recurrence.
"""

# Letters: B batch, T tokens, D model width, H heads, G key/value heads, P head_dim (of values, and of keys and
# queries), R states of a head (1 but for two timescales), E = H R states, Y = R P channels of a head's states, C
# channels of values, keys and queries together, W taps.

from abc import abstractmethod
from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import silu

from lab.core.conv.causal_conv import causal_conv, conv_step
from lab.core.decoding.program import NoProgramError
from lab.core.decoding.writer import Heads, Normed, Writer, refuse_changed
from lab.core.errors import ConfigError
from lab.core.fused.rms_norm import rms_norm
from lab.core.fused.silu_product import silu_product
from lab.core.mixers.base import AttentionTraits, Mixer, MixerShape, MixerState
from lab.core.mixers.options import MixerOptions
from lab.core.mixers.recurrent_state import RecurrentState
from lab.core.mixers.rotary import Angles, Rotary, rotate
from lab.core.operators.backends import Backend, resolve
from lab.core.operators.packing import Packing
from lab.core.products.linear import Linear
from lab.core.ranges import refuse_outside

# epsilon of the norm after the recurrence in the public code
NORM_EPS = 1e-5

# parameters by the stage that trains them; each mixer adds its recurrence's
GATED_NEW = frozenset({"conv1d.weight", "conv1d.bias", "g_norm.weight", "g_proj.weight"})
GATED_INHERITED = frozenset({"vkq_proj.weight", "vkq_proj.bias", "q_norm.weight", "k_norm.weight"})
# attention traits that every mixer here supports: biases and QK-norm with the attention's weights; a rotary embedding
# if `rotary` keeps it (otherwise training compensates); a window through the head outputs that are distilled
GATED_TAKES = frozenset({"qkv_bias", "output_bias", "qk_norm", "rotary", "window"})


@dataclass(kw_only=True, slots=True)
class GatedOptions(MixerOptions):
    """Options common to all mixers here; the defaults are mmMamba's."""

    conv_kernel: int | None = 2
    """W, taps of the causal convolution over values, keys and queries; null: no convolution, only the SiLU after it."""
    conv_bias: bool = True
    """Whether the convolution has a bias."""
    qk_norm: bool = True
    """Whether queries and keys keep the norms that the attention has for them (QK-norm), after the SiLU."""
    rotary: bool = False
    """Whether queries and keys keep the attention's rotary embedding, after the SiLU."""
    norm_eps: float | None = NORM_EPS
    """Epsilon of the norm after the recurrence; null: that of the teacher's norms in front of its attention."""

    def __post_init__(self) -> None:
        refuse_outside(self, "conv_kernel", at_least=1, at_most=1024, hint="null leaves the convolution out")
        refuse_outside(self, "norm_eps", above=0, at_most=1, hint="null takes the teacher's")


class Operands(NamedTuple):
    """Inputs of the recurrence, by head, for a sequence or one token (T = 1)."""

    v: Float[Tensor, "B T G P"]
    k: Float[Tensor, "B T G P"]
    q: Float[Tensor, "B T H P"]


class GatedMixer(Mixer):
    """RMSNorm(y) * SiLU(W_g u), head by head, with y from a recurrence over v, k and q.

    v, k and q are SiLU(conv(W u)); the weight of the norm is the same for all heads. Subclasses give the recurrence.
    """

    def __init__(self, shape: MixerShape, options: GatedOptions, traits: AttentionTraits | None = None) -> None:
        """Create the mixer with uninitialised weights.

        Args:
            shape: sizes.
            options: variants.
            traits: of the attention it replaces; None for one without biases, norms or positions.

        Raises:
            ConfigError: if the options keep a rotary embedding, or take over an epsilon, that the attention lacks.
        """
        super().__init__(shape)
        known = AttentionTraits() if traits is None else traits
        if options.rotary and known.rotary is None:
            raise ConfigError("rotary=True but the attention has no rotary embedding to keep; set rotary=false")
        eps = options.norm_eps or known.norm_eps
        if eps is None:
            raise ConfigError(
                "norm_eps=null but the attention stands behind no known norm; give a number, such as 1e-5"
            )
        self.options: GatedOptions = options
        self._layer_norm_eps = known.norm_eps
        self.rotary: Rotary | None = known.rotary if options.rotary else None
        self.backends: dict[str, str | Backend] = {field.name: "auto" for field in fields(options.kernels)}
        width, num_channels = shape.num_heads * shape.head_dim, sum(self._widths)
        # rows in the order of the convolution's channels
        self.vkq_proj = Linear(shape.hidden_size, num_channels, bias=known.qkv_bias)
        self.conv1d = _taps(num_channels, options)
        qk_norm_eps = known.qk_norm_eps if options.qk_norm else None
        self.q_norm, self.k_norm = (_head_norm(shape.head_dim, qk_norm_eps) for _ in "qk")
        self.add_recurrence()
        self.g_norm = nn.RMSNorm(self.states_per_head * shape.head_dim, eps=eps)
        self.g_proj = Linear(shape.hidden_size, self.states_per_head * width, bias=False)
        self.o_proj = Linear(width, shape.hidden_size, bias=known.output_bias)

    @abstractmethod
    def add_recurrence(self) -> None:
        """Register the parameters of the recurrence."""

    @abstractmethod
    def scan(
        self,
        u: Float[Tensor, "B T D"],
        operands: Operands,
        initial_state: Float[Tensor, "B E P P"] | None,
        cu_seqlens: Int[Tensor, " S1"] | None = None,
    ) -> tuple[Float[Tensor, "B T H Y"], Float[Tensor, "S E P P"]]:
        """Outputs y of the recurrence over each sequence, a row or one of those between `cu_seqlens`; final states."""

    @abstractmethod
    def advance(
        self, u: Float[Tensor, "B 1 D"], operands: Operands, state: Float[Tensor, "B E P P"]
    ) -> Float[Tensor, "B 1 H Y"]:
        """The output y of one token; updates the state in place."""

    @property
    def states_per_head(self) -> int:
        """R, recurrences of each head; they are gated one by one, normed together, and averaged."""
        return self.options.states_per_head

    @property
    def norm_before_gate(self) -> bool:
        """Whether the heads are normed and then gated, or the reverse."""
        return True

    def gate(self, heads: Float[Tensor, "B T H Y"], logits: Float[Tensor, "B T H Y"]) -> Float[Tensor, "B T H Y"]:
        """The heads times SiLU(W_g u), of `logits` W_g u."""
        return silu_product(logits, heads)

    def choose_backends(self) -> dict[str, str]:
        """See `Mixer.choose_backends`."""
        weight, kernels = self.o_proj.weight, self.options.kernels
        chosen = {name: resolve(name, getattr(kernels, name), weight.device, weight.dtype) for name in self.backends}
        self.backends.update(chosen)
        return {name: backend.name for name, backend in chosen.items()}

    @property
    def traits(self) -> AttentionTraits:
        """The traits of the replaced attention that this mixer keeps."""
        norm = self.q_norm
        return AttentionTraits(
            qkv_bias=self.vkq_proj.bias is not None,
            output_bias=self.o_proj.bias is not None,
            qk_norm_eps=None if norm is None else norm.eps,
            rotary=self.rotary,
            norm_eps=self._layer_norm_eps,
        )

    @property
    def longest(self) -> int | None:
        """Length for which the rotary embedding was trained, if there is one."""
        return None if self.rotary is None else self.rotary.config.longest

    def head_outputs(self, u: Float[Tensor, "B T D"]) -> Float[Tensor, "B H T P"]:
        """The normalised and gated outputs of the recurrence."""
        vkq, _ = self._convolve(self.vkq_proj(u), None)
        y, _ = self.scan(u, self._operands(vkq, start=0, length=u.shape[1]), None)
        return self._gated(y, u).transpose(1, 2)

    def packed_head_outputs(self, u: Float[Tensor, "1 T D"], packing: Packing) -> Float[Tensor, "1 H T P"]:
        """See `Mixer.packed_head_outputs`; the operators know where sequences begin."""
        vkq, _ = self._convolve(self.vkq_proj(u), None, packing.cu_seqlens)
        angles = None if self.rotary is None else self.rotary.packed_angles(packing, like=vkq)
        y, _ = self.scan(u, self._turned_operands(vkq, angles), None, packing.cu_seqlens)
        return self._gated(y, u).transpose(1, 2)

    def output(self, head_outputs: Float[Tensor, "B H T P"]) -> Float[Tensor, "B T D"]:
        """The attention's projection W_o of the concatenated head outputs."""
        return self.o_proj(head_outputs.transpose(1, 2).flatten(2))

    def allocate_state(self, batch_size: int, *, max_length: int) -> RecurrentState:
        """An empty state: E P^2 numbers and the inputs of W - 1 tokens, whatever `max_length` is."""
        weight, shape = self.o_proj.weight, self.shape
        num_before = (self.options.conv_kernel or 1) - 1
        size = (batch_size, self.states_per_head * shape.num_heads, shape.head_dim, shape.head_dim)
        return RecurrentState(
            conv=weight.new_zeros(batch_size, sum(self._widths), num_before),
            recurrent=weight.new_zeros(size, dtype=wide(weight.dtype)),
            max_length=max_length,
        )

    @torch.no_grad()
    def prefill(self, u: Float[Tensor, "B T D"], state: MixerState) -> Float[Tensor, "B T D"]:
        """The outputs of the next T tokens after those in `state`, which is updated; without gradients.

        The number of tokens is unlimited.
        """
        assert isinstance(state, RecurrentState), "the state must come from this mixer's allocate_state"
        vkq, last_inputs = self._convolve(self.vkq_proj(u), state.conv)
        state.conv.copy_(last_inputs)
        start, stop = state.length, state.length + u.shape[1]
        operands = self._operands(vkq, start=start, length=max(stop, state.max_length))
        y, final_state = self.scan(u, operands, state.recurrent)
        state.recurrent.copy_(final_state)
        state.length = stop
        return self.output(self._gated(y, u).transpose(1, 2))

    @torch.no_grad()
    def step(self, u: Float[Tensor, "B 1 D"], state: MixerState) -> Float[Tensor, "B 1 D"]:
        """`prefill` of one token, faster and in place."""
        assert isinstance(state, RecurrentState), "the state must come from this mixer's allocate_state"
        vkq = self._convolve_token(self.vkq_proj(u), state.conv)
        stop = state.length + 1
        operands = self._operands(vkq, start=state.length, length=max(stop, state.max_length))
        y = self.advance(u, operands, state.recurrent)
        state.length = stop
        return self.output(self._gated(y, u).transpose(1, 2))

    def write_step(self, writer: Writer, u: Normed, state: MixerState, x: Float[Tensor, "B D"]) -> None:
        """See `Mixer.write_step`."""
        methods = ("forward", "step", "prefill", "output", "_convolve_token", "_operands", "_gated")
        refuse_changed(self, GatedMixer, *methods)
        assert isinstance(state, RecurrentState), "the state must come from this mixer's allocate_state"
        for name, kernel in ((name, getattr(self.options.kernels, name)) for name in self.backends):
            if name.endswith("_step") and kernel not in ("auto", "portable"):
                raise NoProgramError(f"kernels.{name}={kernel} was asked for")
        # beyond that, the angles of another length may hold
        turns = None if self.rotary is None else self.rotary.turns(state.max_length)
        clock = writer.clock(state, None if turns is None else len(turns.cos))
        norms = None if self.q_norm is None or self.k_norm is None else (self.q_norm, self.k_norm)
        vkq = writer.linear(u, self.vkq_proj, "projected")
        logits = writer.linear(u, self.g_proj, "gates")
        writer.operands(vkq, state.conv, self.conv1d, writer.positions(clock, turns, norms), self.heads)
        y = self.write_recurrence(writer, u, vkq, state)
        self.write_gate(writer, y, logits)
        writer.linear(y, self.o_proj, "", added_to=x)

    def write_recurrence(
        self, writer: Writer, u: Normed, vkq: Float[Tensor, "B C"], state: RecurrentState
    ) -> Float[Tensor, "B HP"]:
        """Append what `advance` computes, for operands that have been written to `vkq`; its outputs.

        Raises:
            NoProgramError: if there are no compiled steps for it; a mixer has none unless it overrides this.
        """
        raise NoProgramError(f"{self.kind} layers have no compiled steps")

    def write_gate(self, writer: Writer, y: Float[Tensor, "B HP"], logits: Float[Tensor, "B HP"]) -> None:
        """Append the norm of each head and its gate, in their order.

        Raises:
            NoProgramError: if the gate is another one.
        """
        refuse_changed(self, GatedMixer, "gate", "norm_before_gate")
        writer.gate(y, logits, self.g_norm, self.heads, is_sigmoid=False, norm_first=True)

    @property
    def heads(self) -> Heads:
        """The sizes of the layer, as programs know them."""
        return Heads(self.shape.num_kv_heads, self.shape.heads_per_group, self.shape.head_dim)

    @property
    def _widths(self) -> list[int]:
        """Channels of values, keys and queries."""
        kv_width = self.shape.num_kv_heads * self.shape.head_dim
        return [kv_width, kv_width, self.shape.num_heads * self.shape.head_dim]

    def _convolve(
        self,
        vkq: Float[Tensor, "B T C"],
        before: Float[Tensor, "B C W1"] | None,
        cu_seqlens: Int[Tensor, " S1"] | None = None,
    ) -> tuple[Float[Tensor, "B T C"], Float[Tensor, "S C W1"]]:
        """SiLU of the convolution, and its last inputs."""
        if self.conv1d is None:
            return silu(vkq), vkq.new_empty(vkq.shape[0], vkq.shape[2], 0)
        taps, backend = self.conv1d.weight[:, 0], self.backends["causal_conv"]
        return causal_conv(
            vkq,
            taps,
            self.conv1d.bias,
            activation="silu",
            initial_state=before,
            cu_seqlens=cu_seqlens,
            backend=backend,
        )

    def _convolve_token(self, vkq: Float[Tensor, "B 1 C"], before: Float[Tensor, "B C W1"]) -> Float[Tensor, "B 1 C"]:
        """SiLU of the convolution for one token; updates `before`."""
        if self.conv1d is None:
            return silu(vkq)
        taps, backend = self.conv1d.weight[:, 0], self.backends["causal_conv_step"]
        return conv_step(before, vkq[:, 0], taps, self.conv1d.bias, activation="silu", backend=backend)[:, None]

    def _operands(self, vkq: Float[Tensor, "B T C"], *, start: int, length: int) -> Operands:
        """Values, keys and queries of tokens from position `start` on, in a sequence of `length`."""
        stop = start + vkq.shape[1]
        angles = None if self.rotary is None else self.rotary.angles(start, stop, length=length, like=vkq)
        return self._turned_operands(vkq, angles)

    def _turned_operands(self, vkq: Float[Tensor, "B T C"], angles: Angles | None) -> Operands:
        parts = torch.split(vkq, self._widths, dim=2)
        v, k, q = (part.view(*part.shape[:2], -1, self.shape.head_dim) for part in parts)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        if angles is not None:
            q, k = (rotate(part[:, :, None], angles)[:, :, 0] for part in (q, k))
        return Operands(v, k, q)

    def _gated(self, y: Float[Tensor, "B T H Y"], u: Float[Tensor, "B T D"]) -> Float[Tensor, "B T H P"]:
        """The heads normed and gated, or the reverse; in float32 or wider, returned in the dtype of `y`."""
        logits = self.g_proj(u).view(y.shape)
        widened = y.to(wide(y.dtype))
        if self.norm_before_gate:
            heads = self.gate(self._normed(widened), logits)
        else:
            heads = self._normed(self.gate(widened, logits))
        if self.states_per_head > 1:
            heads = heads.view(*heads.shape[:3], self.states_per_head, -1).mean(3)
        return heads.to(y.dtype)

    def _normed(self, heads: Float[Tensor, "B T H Y"]) -> Float[Tensor, "B T H Y"]:
        assert self.g_norm.eps is not None, "given when it is made"
        return rms_norm(heads, self.g_norm.weight.to(heads.dtype), eps=self.g_norm.eps)


def wide(dtype: torch.dtype) -> torch.dtype:
    """float32, or float64 for float64: the precision of states, norms and decay rates."""
    return torch.promote_types(dtype, torch.float32)


def _taps(num_channels: int, options: GatedOptions) -> nn.Conv1d | None:
    """The weights of the depthwise convolution, under the names of the public code."""
    if options.conv_kernel is None:
        return None
    return nn.Conv1d(num_channels, num_channels, options.conv_kernel, groups=num_channels, bias=options.conv_bias)


def _head_norm(head_dim: int, eps: float | None) -> nn.RMSNorm | None:
    return None if eps is None else nn.RMSNorm(head_dim, eps=eps)
