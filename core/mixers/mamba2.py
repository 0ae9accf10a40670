"""The Mamba-2 mixer that takes the place of attention (mmMamba, arXiv 2502.13145, section 4).

Queries, keys and values of an attention become what its state-space dual (Dao and Gu 2024) calls C, B and x. Everything
else is new: a short convolution, step sizes, decay rates, and a norm and a gate behind the state.
"""

# Letters: B batch, T tokens, D model width, H heads, G key/value heads, P head_dim (of values, and of keys: the
# state_dim of the operator), C channels of values, keys and queries together, W taps.

from dataclasses import dataclass, fields
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import rms_norm, silu

from lab.core.conv.causal_conv import causal_conv, conv_step
from lab.core.errors import ConfigError
from lab.core.mixers.base import Mixer, MixerShape, MixerState
from lab.core.mixers.rotary import Rotary, rotate
from lab.core.operators.backends import Backend, resolve
from lab.core.ssd import ssd
from lab.core.ssd.decode.step import step

# of the norm behind the state, as in the public code
NORM_EPS = 1e-5


@dataclass(kw_only=True, slots=True)
class Mamba2Options:
    """What ablations vary; the defaults are the layer of mmMamba."""

    conv_kernel: int | None = 2
    """W, taps of the causal convolution over values, keys and queries; null: the SiLU behind it alone."""
    rotary: bool = False
    """Whether queries and keys keep the attention's rotary embedding, behind the SiLU."""
    gate_at_one: bool = False
    """Whether the gate is 2 sigmoid(W_g u), which a zero W_g makes one, instead of SiLU(W_g u)."""
    skip: bool = False
    """Whether a head's output has D times its value added (D, one weight a head)."""
    low_precision_state: bool = False
    """Whether the state is kept in the dtype of the weights, as the released model does, instead of float32."""

    def __post_init__(self) -> None:
        if self.conv_kernel is not None and self.conv_kernel < 1:
            raise ConfigError(f"conv_kernel={self.conv_kernel} must be 1 or more; null leaves the convolution out")


@dataclass(kw_only=True, slots=True)
class Mamba2Kernels:
    """Which implementation computes each operator: "auto" or a name that `lab doctor` lists."""

    ssd: str = "auto"
    ssd_step: str = "auto"
    causal_conv: str = "auto"
    causal_conv_step: str = "auto"


@dataclass(kw_only=True)
class Mamba2State(MixerState):
    """What is kept of the tokens so far; its size does not depend on their number.

    Attributes:
        conv: the last W - 1 inputs of the convolution, in the dtype of the weights.
        ssm: the state of every head, float32 or wider unless `low_precision_state`.
        max_length: tokens that the state was allocated for; what a dynamic rotary embedding depends on, no limit.
    """

    conv: Float[Tensor, "B C W1"]
    ssm: Float[Tensor, "B H P P"]
    max_length: int

    def tensors(self) -> tuple[Tensor, ...]:
        """Both states."""
        return self.conv, self.ssm


class Mamba2(Mixer):
    """RMSNorm(y) * SiLU(W_g u) with y = SSD(x = v, B = k, C = q), head by head.

    v, k and q are SiLU(conv(W u)); keys and values of a group serve all its heads. Step sizes are softplus(W_dt u +
    dt_bias), decay rates -exp(A_log). There is no positional embedding, no 1 / sqrt(P) and no normaliser: the norm,
    whose weight all heads share, stands for them.
    """

    kind: ClassVar[str] = "mamba2"

    def __init__(
        self,
        shape: MixerShape,
        *,
        options: Mamba2Options | None = None,
        rotary: Rotary | None = None,
        qkv_bias: bool = False,
    ) -> None:
        """A mixer of this shape whose weights mean nothing yet: they are seeded, or read from a checkpoint.

        Args:
            shape: sizes.
            options: variants; None for the layer of mmMamba.
            rotary: the attention's; used only if the options say so.
            qkv_bias: whether the attention's projections had biases.

        Raises:
            ConfigError: if the options keep a rotary embedding that the attention does not have.
        """
        super().__init__(shape)
        self.options = Mamba2Options() if options is None else options
        if self.options.rotary and rotary is None:
            raise ConfigError("rotary=True but the attention has no rotary embedding to keep; set rotary=false")
        self.rotary = rotary if self.options.rotary else None
        self.backends: dict[str, str | Backend] = {field.name: "auto" for field in fields(Mamba2Kernels)}
        width, num_channels = shape.num_heads * shape.head_dim, sum(self._widths)
        # rows in the order of the convolution's channels
        self.vkq_proj = nn.Linear(shape.hidden_size, num_channels, bias=qkv_bias)
        self.conv1d = _taps(num_channels, self.options.conv_kernel)
        self.in_proj = nn.Linear(shape.hidden_size, shape.num_heads, bias=False)
        self.dt_bias = nn.Parameter(torch.zeros(shape.num_heads))
        self.A_log = nn.Parameter(torch.ones(shape.num_heads))
        self.D = nn.Parameter(torch.ones(shape.num_heads)) if self.options.skip else None
        self.g_norm = nn.RMSNorm(shape.head_dim, eps=NORM_EPS)
        self.g_proj = nn.Linear(shape.hidden_size, width, bias=False)
        self.o_proj = nn.Linear(width, shape.hidden_size, bias=False)

    def choose_backends(self, kernels: Mamba2Kernels) -> dict[str, str]:
        """Settle the implementation of every operator for the device and dtype of the weights; their names.

        Raises:
            BackendError: if one that is asked for by name cannot run there.
        """
        weight = self.o_proj.weight
        chosen = {name: resolve(name, getattr(kernels, name), weight.device, weight.dtype) for name in self.backends}
        self.backends.update(chosen)
        return {name: backend.name for name, backend in chosen.items()}

    def heads(self, u: Float[Tensor, "B T D"]) -> Float[Tensor, "B H T P"]:
        """The normed and gated outputs of the state."""
        vkq, _ = self._convolve(self.vkq_proj(u), None)
        x, B, C = self._operands(vkq, start=0, length=u.shape[1])
        y, _ = self._scan(u, x, B, C, None)
        return self._gated(y, u).transpose(1, 2)

    def output(self, heads: Float[Tensor, "B H T P"]) -> Float[Tensor, "B T D"]:
        """The projection W_o of the concatenated heads, the attention's own."""
        return self.o_proj(heads.transpose(1, 2).flatten(2))

    def allocate_state(self, batch_size: int, *, max_length: int) -> Mamba2State:
        """An empty state: H P^2 numbers and the inputs of W - 1 tokens, whatever `max_length` is."""
        weight, shape = self.o_proj.weight, self.shape
        num_before = (self.options.conv_kernel or 1) - 1
        dtype = weight.dtype if self.options.low_precision_state else _wide(weight.dtype)
        return Mamba2State(
            conv=weight.new_zeros(batch_size, sum(self._widths), num_before),
            ssm=weight.new_zeros(batch_size, shape.num_heads, shape.head_dim, shape.head_dim, dtype=dtype),
            max_length=max_length,
        )

    @torch.no_grad()
    def prefill(self, u: Float[Tensor, "B T D"], state: MixerState) -> Float[Tensor, "B T D"]:
        """The outputs of the next T tokens after those in `state`, which takes them in; without gradients.

        The state has room for any number of tokens.
        """
        assert isinstance(state, Mamba2State), "allocate_state of this mixer makes the state"
        vkq, last_inputs = self._convolve(self.vkq_proj(u), state.conv)
        state.conv.copy_(last_inputs)
        start, stop = state.length, state.length + u.shape[1]
        x, B, C = self._operands(vkq, start=start, length=max(stop, state.max_length))
        y, final_state = self._scan(u, x, B, C, state.ssm)
        state.ssm.copy_(final_state)
        state.length = stop
        return self.output(self._gated(y, u).transpose(1, 2))

    @torch.no_grad()
    def step(self, u: Float[Tensor, "B 1 D"], state: MixerState) -> Float[Tensor, "B 1 D"]:
        """`prefill` of one token, in place and faster."""
        assert isinstance(state, Mamba2State), "allocate_state of this mixer makes the state"
        vkq = self._convolve_token(self.vkq_proj(u), state.conv)
        stop = state.length + 1
        x, B, C = self._operands(vkq, start=state.length, length=max(stop, state.max_length))
        y = step(
            state.ssm,
            x[:, 0],
            self.in_proj(u)[:, 0],
            self._decay_rates(),
            B[:, 0],
            C[:, 0],
            D=self.D,
            dt_bias=self.dt_bias,
            dt_softplus=True,
            backend=self.backends["ssd_step"],
        )
        state.length = stop
        return self.output(self._gated(y[:, None], u).transpose(1, 2))

    @property
    def _widths(self) -> list[int]:
        """Channels of values, keys and queries."""
        kv_width = self.shape.num_kv_heads * self.shape.head_dim
        return [kv_width, kv_width, self.shape.num_heads * self.shape.head_dim]

    def _convolve(
        self, vkq: Float[Tensor, "B T C"], before: Float[Tensor, "B C W1"] | None
    ) -> tuple[Float[Tensor, "B T C"], Float[Tensor, "B C W1"]]:
        """SiLU of the convolution, and its last inputs."""
        if self.conv1d is None:
            return silu(vkq), vkq.new_empty(vkq.shape[0], vkq.shape[2], 0)
        taps, backend = self.conv1d.weight[:, 0], self.backends["causal_conv"]
        return causal_conv(vkq, taps, self.conv1d.bias, activation="silu", initial_state=before, backend=backend)

    def _convolve_token(self, vkq: Float[Tensor, "B 1 C"], before: Float[Tensor, "B C W1"]) -> Float[Tensor, "B 1 C"]:
        """SiLU of the convolution of one token, which `before` takes in."""
        if self.conv1d is None:
            return silu(vkq)
        taps, backend = self.conv1d.weight[:, 0], self.backends["causal_conv_step"]
        return conv_step(before, vkq[:, 0], taps, self.conv1d.bias, activation="silu", backend=backend)[:, None]

    def _operands(
        self, vkq: Float[Tensor, "B T C"], *, start: int, length: int
    ) -> tuple[Float[Tensor, "B T H P"], Float[Tensor, "B T H P"], Float[Tensor, "B T H P"]]:
        """x, B and C of tokens from `start` of a sequence of `length`."""
        parts = torch.split(vkq, self._widths, dim=2)
        v, k, q = (part.view(*part.shape[:2], -1, self.shape.head_dim) for part in parts)
        if self.rotary is not None:
            angles = self.rotary.angles(start, start + vkq.shape[1], length=length, like=vkq)
            q, k = (rotate(part[:, :, None], angles)[:, :, 0] for part in (q, k))
        # the operator groups B together with C, and the queries of a group differ: keys are repeated as values are
        return self._repeated(v), self._repeated(k), q

    def _repeated(self, part: Float[Tensor, "B T G P"]) -> Float[Tensor, "B T H P"]:
        """Each key or value head once for every head that it serves; no copy if that is one."""
        return part[:, :, :, None].expand(-1, -1, -1, self.shape.heads_per_group, -1).flatten(2, 3)

    def _scan(
        self,
        u: Float[Tensor, "B T D"],
        x: Float[Tensor, "B T H P"],
        B: Float[Tensor, "B T H P"],
        C: Float[Tensor, "B T H P"],
        initial_state: Float[Tensor, "B H P P"] | None,
    ) -> tuple[Float[Tensor, "B T H P"], Float[Tensor, "B H P P"]]:
        return ssd(
            x,
            self.in_proj(u),
            self._decay_rates(),
            B,
            C,
            D=self.D,
            dt_bias=self.dt_bias,
            dt_softplus=True,
            initial_state=initial_state,
            backend=self.backends["ssd"],
        )

    def _decay_rates(self) -> Float[Tensor, " H"]:
        """A, in float32 or wider: rates close to each other decay to very different states."""
        return -torch.exp(self.A_log.to(_wide(self.A_log.dtype)))

    def _gated(self, y: Float[Tensor, "B T H P"], u: Float[Tensor, "B T D"]) -> Float[Tensor, "B T H P"]:
        """The norm of each head times its gate; in float32 or wider, returned in the dtype of `y`."""
        gate = self.g_proj(u).view(y.shape)
        opened = 2 * torch.sigmoid(gate) if self.options.gate_at_one else silu(gate)
        wide = y.to(_wide(y.dtype))
        normed = rms_norm(wide, wide.shape[-1:], self.g_norm.weight.to(wide.dtype), self.g_norm.eps)
        return (normed * opened).to(y.dtype)


def _taps(num_channels: int, conv_kernel: int | None) -> nn.Conv1d | None:
    """The weights of the depthwise convolution, under the names of the public code."""
    return None if conv_kernel is None else nn.Conv1d(num_channels, num_channels, conv_kernel, groups=num_channels)


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)
