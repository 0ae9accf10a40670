"""Writes the program of a model: each part of the model appends the steps that compute it.

A part that is not what it seems (class, hook, dtype of weights) is refused: torch's layers then compute the model.
"""

# Letters: B batch, I inputs, O outputs, H heads, G key/value heads, P head_dim, C channels and R rows of a packed layer
# (2 G P + H P), W1 inputs that a convolution keeps, L slots of a cache, V vocabulary.

import ctypes
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lab.core.decoding import instructions as steps
from lab.core.decoding.order import OrderOfSteps
from lab.core.decoding.program import Clock, HasLength, NoProgramError, Program, refuse_what_has_no_loop
from lab.core.mixers.norm import RmsNorm
from lab.core.models.embedding import Embedding
from lab.core.products.linear import Linear


class Normed(NamedTuple):
    """A buffer, and the norm through which it is read."""

    x: Float[Tensor, "B I"]
    weight: Float[Tensor, " I"]
    eps: float


class Heads(NamedTuple):
    """The sizes of a layer: G key heads, so many queries for each of them, P channels."""

    groups: int
    queries: int
    width: int


class Turns(NamedTuple):
    """The rotary embedding of every position: cosines and sines (positions, pairs of channels)."""

    cos: Float[Tensor, "..."]
    sin: Float[Tensor, "..."]


Norms = tuple[RmsNorm | nn.RMSNorm, RmsNorm | nn.RMSNorm]
"""The norm of queries and that of keys."""


class Writer:
    """Appends steps to a program; a buffer holds its numbers until its name is used again."""

    def __init__(
        self,
        rows: int,
        *,
        dtype: torch.dtype,
        device: torch.device,
        owners: Callable[[HasLength], Sequence[HasLength]] = lambda state: (state,),
    ) -> None:
        """A program without steps.

        Args:
            rows: B.
            owners: for the state of a layer, who knows the lengths of its rows: one for each, or one for all.
            dtype: of the weights.
            device: of the weights.

        Raises:
            NoProgramError: if there are no steps for these.
        """
        refuse_what_has_no_loop(rows, dtype, device)
        self.dtype = dtype
        self._rows = rows
        self._owners = owners
        self._tokens = torch.zeros(rows, dtype=torch.int64)
        self._instructions: list[steps.Instruction] = []
        self._kept: list[object] = []
        self._buffers: dict[tuple[str, int], Tensor] = {}
        self._clocks: list[Clock] = []
        self._order = OrderOfSteps()

    def finish(self, logits: Float[Tensor, "B V"]) -> Program:
        """The program, one of whose steps writes `logits`."""
        return Program(
            self._instructions,
            dtype=self.dtype,
            tokens=self._tokens,
            logits=logits,
            clocks=self._clocks,
            kept=self._kept,
        )

    def embed(self, table: nn.Embedding) -> Float[Tensor, "B I"]:
        """The embeddings of the tokens."""
        refuse_another(table, Embedding)
        x = self._buffer("stream", table.embedding_dim)
        step = steps.Embed(
            tokens=self._tokens.data_ptr(),
            table=self._weight(table.weight),
            x=x.data_ptr(),
            vocabulary=table.num_embeddings,
            width=table.embedding_dim,
        )
        self._add(step, reads=(), writes=(x,))
        return x

    def normed(self, x: Float[Tensor, "B I"], norm: RmsNorm) -> Normed:
        """`x` as the next product reads it."""
        refuse_another(norm, RmsNorm)
        return Normed(x, norm.weight, norm.eps)

    def linear(
        self, x: Normed | Tensor, layer: Linear, name: str, *, added_to: Tensor | None = None
    ) -> Float[Tensor, "B O"]:
        """A linear layer's output, in the buffer `name` or added to another one."""
        refuse_another(layer, Linear)
        return self.product(x, layer.weight, layer.bias, name, added_to=added_to)

    def product(
        self,
        x: Normed | Tensor,
        weight: Float[Tensor, "O I"],
        bias: Float[Tensor, " O"] | None,
        name: str,
        *,
        added_to: Float[Tensor, "B O"] | None = None,
    ) -> Float[Tensor, "B O"]:
        """x W' + b in the buffer `name`, or added to another one."""
        y = self._buffer(name, weight.shape[0]) if added_to is None else added_to
        self._product(x, y, weight, bias, is_added=added_to is not None)
        return y

    def swiglu(self, x: Normed | Tensor, gate: Linear, up: Linear, name: str) -> Float[Tensor, "B O"]:
        """silu(gate(x)) up(x), in the buffer `name`."""
        for layer in (gate, up):
            refuse_another(layer, Linear)
        y = self._buffer(name, gate.out_features)
        self._product(x, y, gate.weight, gate.bias, up.weight, up.bias)
        return y

    def clock(self, state: HasLength, most: int | None) -> Clock:
        """The length of a state, which the program advances; it can have `most` tokens."""
        self._clocks.append(Clock(tuple(self._owners(state)), most, torch.zeros(self._rows, dtype=torch.int64)))
        return self._clocks[-1]

    def positions(self, clock: Clock, turns: Turns | None, norms: Norms | None) -> steps.Positions:
        """Norms of queries and of keys, and their rotation; either may be missing."""
        positions = steps.Positions(lengths=clock.lengths.data_ptr())
        if norms is not None:
            for norm in norms:
                refuse_another(norm, RmsNorm, nn.RMSNorm)
            q_norm, k_norm = norms
            if q_norm.eps is None or q_norm.eps != k_norm.eps:
                raise NoProgramError(f"the norms of queries and keys have eps={q_norm.eps} and {k_norm.eps}")
            positions.q_norm, positions.k_norm = self._weight(q_norm.weight), self._weight(k_norm.weight)
            positions.eps = q_norm.eps
        if turns is not None:
            positions.cos, positions.sin = (self._own(part, torch.float32) for part in turns)
            positions.pairs = turns.cos.shape[1]
        return positions

    def attend(
        self,
        qkv: Float[Tensor, "B R"],
        keys: Float[Tensor, "B G L P"],
        values: Float[Tensor, "B G L P"],
        positions: steps.Positions,
        heads: Heads,
        name: str,
    ) -> Float[Tensor, "B HP"]:
        """Attention to a cache, which takes the token in, of groups packed as [q_1 .. q_{H/G}, k, v]."""
        y = self._buffer(name, heads.groups * heads.queries * heads.width)
        # layers follow one another, so all of them may use the same parts
        num_parts = -(-keys.shape[2] // steps.PART_TOKENS)
        parts = self._buffer("parts", heads.groups * num_parts * heads.queries * (heads.width + 2))
        num_done = torch.zeros(self._rows * heads.groups, dtype=torch.int64)
        self._kept.append(num_done)
        step = steps.Attend(
            qkv=qkv.data_ptr(),
            keys=self._own(keys, self.dtype),
            values=self._own(values, self.dtype),
            heads=y.data_ptr(),
            parts=parts.data_ptr(),
            num_done=num_done.data_ptr(),
            positions=positions,
            slots=keys.shape[2],
            **heads._asdict(),
        )
        self._add(step, reads=(qkv,), writes=(y, parts))
        return y

    def operands(
        self,
        vkq: Float[Tensor, "B C"],
        before: Float[Tensor, "B C W1"],
        convolution: nn.Conv1d | None,
        positions: steps.Positions,
        heads: Heads,
    ) -> None:
        """Convolve values, keys and queries, SiLU, then their positions, in place."""
        step = steps.Operands(vkq=vkq.data_ptr(), positions=positions, **heads._asdict())
        if convolution is not None:
            refuse_another(convolution, nn.Conv1d)
            step.before = self._own(before, self.dtype)
            step.taps = self._weight(convolution.weight)
            step.bias = None if convolution.bias is None else self._weight(convolution.bias)
            step.num_taps = before.shape[2] + 1
        self._add(step, reads=(), writes=(vkq,), tasks=heads.groups)

    def ssd(
        self,
        vkq: Float[Tensor, "B C"],
        dt: Float[Tensor, "B H"],
        state: Float[Tensor, "B H P P"],
        weights: tuple[Tensor, Tensor, Tensor | None],
        heads: Heads,
        name: str,
    ) -> Float[Tensor, "B HP"]:
        """The state-space recurrence with the weights A_log, dt_bias and D, the skip connection's or None."""
        *decay, skip = weights
        y, recurrence = self._recurrence(vkq, state, decay, heads, name)
        step = steps.Ssd(recurrence=recurrence, dt=dt.data_ptr(), D=None if skip is None else self._weight(skip))
        self._add(step, reads=(dt,), writes=(vkq, y), tasks=heads.groups)
        return y

    def delta(
        self,
        vkq: Float[Tensor, "B C"],
        decay_strength: tuple[Float[Tensor, "B H"], Float[Tensor, "B H"]],
        state: Float[Tensor, "B H P P"],
        weights: tuple[Tensor, Tensor],
        heads: Heads,
        name: str,
        *,
        unit_eps: float,
    ) -> Float[Tensor, "B HP"]:
        """The gated delta rule with the weights A_log and dt_bias, for keys and queries of unit length."""
        y, recurrence = self._recurrence(vkq, state, weights, heads, name)
        a, b = decay_strength
        step = steps.Delta(
            recurrence=recurrence, a=a.data_ptr(), b=b.data_ptr(), scale=heads.width**-0.5, unit_eps=unit_eps
        )
        self._add(step, reads=(a, b), writes=(vkq, y), tasks=heads.groups)
        return y

    def gate(
        self,
        y: Float[Tensor, "B HP"],
        logits: Float[Tensor, "B HP"],
        norm: nn.RMSNorm,
        heads: Heads,
        *,
        is_sigmoid: bool,
        norm_first: bool,
    ) -> None:
        """The norm of each head and SiLU, or 2 sigmoid, of the gate's logits, in place; these are overwritten."""
        refuse_another(norm, nn.RMSNorm)
        step = steps.Gate(
            y=y.data_ptr(),
            logits=logits.data_ptr(),
            norm=self._weight(norm.weight),
            is_sigmoid=is_sigmoid,
            norm_first=norm_first,
            eps=norm.eps,
            **heads._asdict(),
        )
        self._add(step, reads=(), writes=(y, logits), tasks=heads.groups)

    def _recurrence(
        self, vkq: Tensor, state: Tensor, decay: Iterable[Tensor], heads: Heads, name: str
    ) -> tuple[Tensor, steps.Recurrence]:
        A_log, dt_bias = map(self._weight, decay)
        y = self._buffer(name, heads.groups * heads.queries * heads.width)
        held = self._own(state, torch.float32)
        pointers = {"state": held, "vkq": vkq.data_ptr(), "A_log": A_log, "dt_bias": dt_bias, "y": y.data_ptr()}
        return y, steps.Recurrence(**pointers, **heads._asdict())

    def _product(
        self,
        x: Normed | Tensor,
        y: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        up: Tensor | None = None,
        up_bias: Tensor | None = None,
        *,
        is_added: bool = False,
    ) -> None:
        read = x.x if isinstance(x, Normed) else x
        step = steps.Product(
            x=read.data_ptr(), y=y.data_ptr(), inputs=weight.shape[1], outputs=weight.shape[0], is_added=is_added
        )
        assert (read.shape[1], y.shape[1]) == (weight.shape[1], weight.shape[0]), "one product"
        if isinstance(x, Normed):
            step.norm, step.eps = self._weight(x.weight), x.eps
        for name, tensor in (("weight", weight), ("bias", bias), ("up", up), ("up_bias", up_bias)):
            if tensor is not None:
                setattr(step, name, self._weight(tensor))
        self._add(step, reads=(read,), writes=(y,))

    def _buffer(self, name: str, width: int) -> Tensor:
        if (name, width) not in self._buffers:
            self._buffers[name, width] = torch.zeros(self._rows, width)
        buffer = self._buffers[name, width]
        self._kept.append(buffer)
        return buffer

    def _weight(self, tensor: Tensor) -> int:
        return self._own(tensor.detach(), self.dtype)

    def _own(self, tensor: Tensor, dtype: torch.dtype) -> int:
        """The address of a tensor that is read or written where it is."""
        if type(tensor) is not Tensor or not tensor.is_cpu or tensor.dtype is not dtype or not tensor.is_contiguous():
            found, wanted = (str(each).removeprefix("torch.") for each in (tensor.dtype, dtype))
            raise NoProgramError(f"a tensor is {found} on {tensor.device}, not a contiguous {wanted} tensor on the CPU")
        self._kept.append(tensor)
        return tensor.data_ptr()

    def _add(self, step: steps.Step, *, reads: Iterable[Tensor], writes: Iterable[Tensor], tasks: int = 0) -> None:
        """Append a step whose threads share its work by channels of outputs, or by `tasks` a row."""
        order = self._order.of([each.data_ptr() for each in reads], [each.data_ptr() for each in writes], tasks)
        self._kept.append(step)
        self._instructions.append(steps.Instruction(step.operation, order, ctypes.addressof(step)))


def refuse_another(module: nn.Module, *kinds: type[nn.Module]) -> None:
    """Refuse a module that may compute something else than one of these classes does.

    Raises:
        NoProgramError: naming its class.
    """
    if type(module) not in kinds:
        raise NoProgramError(f"{type(module).__name__} stands in the place of {kinds[0].__name__}")
    refuse_changed(module, type(module), "forward")


def refuse_changed(module: nn.Module, kind: type[nn.Module], *methods: str) -> None:
    """Refuse a module whose methods are not those of `kind`, or that has hooks.

    Raises:
        NoProgramError: naming its class and the method.
    """
    for method in methods:
        if getattr(type(module), method) is not getattr(kind, method) or method in vars(module):
            raise NoProgramError(f"{type(module).__name__} has another {method.strip('_')} than {kind.__name__}")
    if module._forward_hooks or module._forward_pre_hooks:
        raise NoProgramError(f"{type(module).__name__} has a hook")
