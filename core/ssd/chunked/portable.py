"""The chunked SSD operator in plain torch, for any device, with a handwritten backward pass.

Processes one chunk of all heads at a time, so that it stays in cache. Log decays are summed over the spanned tokens,
never as differences of longer sums: accurate even after a strong decay, and no exponential overflows.
"""

# Letters: B batch, T tokens, H heads, G groups, R heads of a group, P head_dim, N state_dim, S sequences, q tokens of a
# chunk: i reads the state, j wrote to it.

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

from lab.core.operators.decays import span_sums, sums_passing
from lab.core.ssd.chunked.inputs import Gradients, Inputs
from lab.core.ssd.validation import SOFTPLUS_THRESHOLD

# Tokens per chunk, measured on a CPU with inputs of 128 x 128: see `lab bench ssd`.
_CHUNK = 64


def forward(inputs: Inputs, chunk_size: int | None) -> tuple[Tensor, Tensor]:
    """Output and final state."""
    y = torch.empty_like(inputs.x, memory_format=torch.contiguous_format)
    final_state = inputs.x.new_empty(inputs.state_shape)
    with torch.autocast(inputs.x.device.type, enabled=False):
        for sequence in _sequences(inputs):
            state = sequence.initial_state
            for tokens in sequence.chunks(chunk_size or _CHUNK):
                chunk = sequence.chunk(tokens)
                mixing = (chunk.C @ chunk.B.mT) * chunk.decay * chunk.dt[..., None, :]
                outputs = mixing @ chunk.x + (chunk.C @ state) * chunk.into[..., None]
                if sequence.D is not None:
                    outputs += sequence.D * chunk.x
                y[sequence.rows, tokens] = _by_token(outputs)
                state = chunk.advance(state)
            final_state[sequence.states] = state.mT.flatten(1, 2)
    return y, final_state


def backward(inputs: Inputs, chunk_size: int | None, grad_y: Tensor, grad_final_state: Tensor | None) -> Gradients:
    """Gradients of all inputs.

    With W_ij = dy_i · x_j and L_ij = exp(c_i - c_j):
    dx_j = dt_j z_j + D dy_j with z_j = Σ_i L_ij (C_i · B_j) dy_i + exp(c_q - c_j) dh B_j,
    dB_j = dt_j (Σ_i L_ij W_ij C_i + exp(c_q - c_j) dh' x_j), dC_i = Σ_j L_ij dt_j W_ij B_j + exp(c_i) h' dy_i, and the
    gradient of the log decay of token t sums everything that passes from before t to t or later. It is built from sums
    of these terms only: a difference of larger sums would be pure rounding where almost nothing passes.
    """
    grads = Gradients(
        x=torch.empty_like(inputs.x, memory_format=torch.contiguous_format),
        dt=torch.empty_like(inputs.dt, memory_format=torch.contiguous_format),
        A=torch.zeros_like(inputs.A),
        B=torch.empty_like(inputs.B, memory_format=torch.contiguous_format),
        C=torch.empty_like(inputs.C, memory_format=torch.contiguous_format),
        D=None if inputs.D is None else torch.zeros_like(inputs.D),
        dt_bias=None if inputs.dt_bias is None else torch.zeros_like(inputs.dt_bias),
        initial_state=None if inputs.initial_state is None else torch.empty_like(inputs.initial_state),
    )
    with torch.autocast(inputs.x.device.type, enabled=False):
        for sequence in _sequences(inputs):
            _backward_of_sequence(sequence, chunk_size or _CHUNK, grad_y, grad_final_state, grads)
    return grads


class _Chunk(NamedTuple):
    """The tensors of a range of tokens, by group and head."""

    x: Float[Tensor, "B G R q P"]
    dt: Float[Tensor, "B G R q"]
    raw: Float[Tensor, "B G R q"]
    """The step sizes before softplus."""
    B: Float[Tensor, "B G 1 q N"]
    C: Float[Tensor, "B G 1 q N"]
    decay: Float[Tensor, "B G R q q"]
    """L_ij, zero for i < j."""
    into: Float[Tensor, "B G R q"]
    """exp(c_i): the decay at i of the state before the chunk."""
    out: Float[Tensor, "B G R q"]
    """exp(c_q - c_j): the decay of j's contribution at the end of the chunk."""

    def advance(self, state: Float[Tensor, "B G R N P"]) -> Float[Tensor, "B G R N P"]:
        """The state after the chunk."""
        written = (self.B.mT * (self.out * self.dt)[..., None, :]) @ self.x
        return written.addcmul_(state, self.into[..., -1, None, None])


class _Sequence(NamedTuple):
    """Rows of the batch processed together, or one packed sequence."""

    inputs: Inputs
    rows: slice
    tokens: range
    states: slice

    @property
    def num_groups(self) -> int:
        return self.inputs.B.shape[2]

    @property
    def heads_per_group(self) -> int:
        return self.inputs.x.shape[2] // self.num_groups

    @property
    def D(self) -> Tensor | None:
        """[G R 1 P or 1], or nothing."""
        weight = self.inputs.D
        if weight is None:
            return None
        return weight.reshape(self.num_groups, -1, 1, weight.shape[1] if weight.ndim == 2 else 1)

    @property
    def A(self) -> Tensor:
        """[G R 1]."""
        return self.inputs.A.reshape(self.num_groups, -1, 1)

    @property
    def initial_state(self) -> Float[Tensor, "B G R N P"]:
        given = self.inputs.initial_state
        if given is not None:
            return self.by_group(given[self.states]).mT
        num_sequences = len(range(*self.states.indices(self.inputs.num_sequences)))
        *_, head_dim, state_dim = self.inputs.state_shape
        return self.inputs.x.new_zeros(num_sequences, self.num_groups, self.heads_per_group, state_dim, head_dim)

    def by_group(self, states: Float[Tensor, "B H P N"]) -> Float[Tensor, "B G R P N"]:
        return states.view(len(states), self.num_groups, self.heads_per_group, *states.shape[2:])

    def heads(self, tensor: Float[Tensor, "B T H *last"], tokens: slice) -> Float[Tensor, "B G R q *last"]:
        """B and C have one head a group."""
        part = tensor[self.rows, tokens]
        heads_per_group = part.shape[2] // self.num_groups
        return part.view(*part.shape[:2], self.num_groups, heads_per_group, *part.shape[3:]).movedim(1, 3)

    def chunks(self, chunk_size: int) -> Iterator[slice]:
        for start in range(self.tokens.start, self.tokens.stop, chunk_size):
            yield slice(start, min(start + chunk_size, self.tokens.stop))

    def chunk(self, tokens: slice) -> _Chunk:
        raw = self.heads(self.inputs.dt, tokens)
        if self.inputs.dt_bias is not None:
            raw = raw + self.inputs.dt_bias.reshape(self.num_groups, -1, 1)
        dt = softplus(raw, threshold=SOFTPLUS_THRESHOLD) if self.inputs.is_softplus else raw
        log_decay = dt * self.A
        spans = span_sums(log_decay)
        return _Chunk(
            x=self.heads(self.inputs.x, tokens),
            dt=dt,
            raw=raw,
            B=self.heads(self.inputs.B, tokens),
            C=self.heads(self.inputs.C, tokens),
            decay=spans.exp(),
            into=log_decay.cumsum(-1).exp_(),
            out=spans[..., -1, :].exp(),
        )


def _sequences(inputs: Inputs) -> Iterator[_Sequence]:
    if inputs.starts is None:
        yield _Sequence(inputs, slice(None), range(inputs.x.shape[1]), slice(None))
        return
    for number, (start, stop) in enumerate(pairwise(inputs.starts)):
        yield _Sequence(inputs, slice(0, 1), range(start, stop), slice(number, number + 1))


def _by_token(heads: Float[Tensor, "B G R q *last"]) -> Float[Tensor, "B q H *last"]:
    return heads.movedim(3, 1).flatten(2, 3)


def _backward_of_sequence(
    sequence: _Sequence, chunk_size: int, grad_y: Tensor, grad_final_state: Tensor | None, grads: Gradients
) -> None:
    chunks = list(sequence.chunks(chunk_size))
    states = [sequence.initial_state]
    for tokens in chunks[:-1]:
        states.append(sequence.chunk(tokens).advance(states[-1]))
    grad_state = torch.zeros_like(states[0])
    if grad_final_state is not None:
        grad_state = sequence.by_group(grad_final_state[sequence.states]).mT
    rows, D = sequence.rows, sequence.D
    for tokens in reversed(chunks):
        state = states.pop()
        chunk = sequence.chunk(tokens)
        grad_outputs = sequence.heads(grad_y, tokens)
        mixing = (chunk.C @ chunk.B.mT) * chunk.decay
        products = (grad_outputs @ chunk.x.mT) * chunk.dt[..., None, :]
        weights = products * chunk.decay

        from_behind = (chunk.B @ grad_state) * chunk.out[..., None]
        grad_steps = mixing.mT @ grad_outputs + from_behind
        grad_x = grad_steps * chunk.dt[..., None]
        if D is not None and grads.D is not None:
            grad_x += D * grad_outputs
            skipped = (grad_outputs * chunk.x).sum((0, 3)).flatten(0, 1)
            grads.D.add_(skipped if grads.D.ndim == 2 else skipped.sum(-1))
        grad_B = weights.mT @ chunk.C + (chunk.x @ grad_state.mT) * (chunk.out * chunk.dt)[..., None]
        from_before = (grad_outputs @ state.mT) * chunk.into[..., None]
        grad_C = weights @ chunk.B + from_before

        grad_decay = sums_passing(mixing * products)
        grad_decay += (from_before * chunk.C).sum(-1).flip(-1).cumsum(-1).flip(-1)
        written = (from_behind * chunk.x).sum(-1) * chunk.dt
        grad_decay[..., 1:] += written.cumsum(-1)[..., :-1]
        grad_decay += (grad_state * state).sum((-1, -2))[..., None] * chunk.into[..., -1:]

        grads.x[rows, tokens] = _by_token(grad_x)
        grads.B[rows, tokens] = _by_token(grad_B.sum(2, keepdim=True))
        grads.C[rows, tokens] = _by_token(grad_C.sum(2, keepdim=True))
        grad_dt = (grad_steps * chunk.x).sum(-1) + grad_decay * sequence.A
        if sequence.inputs.is_softplus:
            grad_dt *= torch.sigmoid(chunk.raw)
        grads.dt[rows, tokens] = _by_token(grad_dt)
        if grads.dt_bias is not None:
            grads.dt_bias.add_(grad_dt.sum((0, 3)).flatten())
        grads.A.add_((grad_decay * chunk.dt).sum((0, 3)).flatten())
        read = (chunk.C * chunk.into[..., None]).mT @ grad_outputs
        grad_state = read.addcmul_(grad_state, chunk.into[..., -1, None, None])
    if grads.initial_state is not None:
        grads.initial_state[sequence.states] = grad_state.mT.flatten(1, 2)
