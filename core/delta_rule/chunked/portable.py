"""The chunked gated delta rule in plain torch, for any device, with a handwritten backward pass.

Processes one chunk of all heads at a time, so that it stays in the cache. With c the running sum of g in a chunk,
L_ij = exp(c_i - c_j) for j <= i and S the state before the chunk, the tokens of a chunk write u_i k_iᵀ, where

    x_i = v_i - exp(c_i) S k_i - Σ_{j<i} L_ij (k_i · k_j) u_j,   u_i = beta_i x_i,

one triangular system for all of them; then y_i = scale (exp(c_i) S q_i + Σ_{j<=i} L_ij (q_i · k_j) u_j) and
S' = exp(c_q) S + Σ_j exp(c_q - c_j) u_j k_jᵀ.
"""

# Letters: B batch, T tokens, H heads, K key_dim, V value_dim, S sequences, q tokens of a chunk: i reads the state, j
# wrote to it. Rows of x, u and y are tokens.

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.linalg import solve_triangular

from lab.core.delta_rule.chunked.inputs import Gradients, Inputs
from lab.core.operators.decays import span_sums, sums_passing

_CHUNK = 64


def forward(inputs: Inputs, chunk_size: int | None) -> tuple[Tensor, Tensor]:
    """Output and final state."""
    y = inputs.v.new_empty(inputs.output_shape)
    final_state = inputs.v.new_empty(inputs.state_shape)
    with torch.autocast(y.device.type, enabled=False):
        for sequence in _sequences(inputs):
            state = sequence.initial_state
            for tokens in sequence.chunks(chunk_size or _CHUNK):
                chunk = sequence.chunk(tokens)
                written = chunk.solve(chunk.unpredicted(state))
                outputs = ((chunk.q @ chunk.k.mT) * chunk.decay) @ written
                outputs += (chunk.q @ state.mT) * chunk.into
                y[sequence.rows, tokens] = (outputs * inputs.scale).transpose(1, 2)
                state = chunk.advance(state, written)
            final_state[sequence.states] = state
    return y, final_state


def backward(inputs: Inputs, chunk_size: int | None, grad_y: Tensor, grad_final_state: Tensor | None) -> Gradients:
    """Gradients of all inputs."""
    new = inputs.v.new_empty
    grads = Gradients(
        q=new(inputs.q.shape),
        k=new(inputs.k.shape),
        v=new(inputs.v.shape),
        g=new(inputs.g.shape),
        beta=new(inputs.beta.shape),
        initial_state=None if inputs.initial_state is None else new(inputs.state_shape),
    )
    with torch.autocast(grad_y.device.type, enabled=False):
        for sequence in _sequences(inputs):
            _backward_of_sequence(sequence, chunk_size or _CHUNK, grad_y, grad_final_state, grads)
    return grads


class _Chunk(NamedTuple):
    """The tensors of a range of tokens, by head, shared heads repeated."""

    q: Float[Tensor, "B H q K"]
    k: Float[Tensor, "B H q K"]
    v: Float[Tensor, "B H q V"]
    beta: Float[Tensor, "B H q 1"]
    decay: Float[Tensor, "B H q q"]
    """L_ij, zero for i < j."""
    overlap: Float[Tensor, "B H q q"]
    """L_ij (k_i · k_j), zero for i <= j."""
    into: Float[Tensor, "B H q 1"]
    """exp(c_i): the decay at i of the state before the chunk."""
    out: Float[Tensor, "B H q 1"]
    """exp(c_q - c_j): the decay of j's contribution at the end of the chunk."""

    def unpredicted(self, state: Float[Tensor, "B H V K"]) -> Float[Tensor, "B H q V"]:
        """v_i - exp(c_i) S k_i: the error of the values predicted from the state before the chunk."""
        return self.v - (self.k @ state.mT) * self.into

    def solve(self, unpredicted: Float[Tensor, "B H q V"]) -> Float[Tensor, "B H q V"]:
        """Solve (I + beta M) U = beta E for U, with M the overlap and E the prediction error."""
        return solve_triangular(self.overlap * self.beta, unpredicted * self.beta, upper=False, unitriangular=True)

    def solve_transposed(self, grad_written: Float[Tensor, "B H q V"]) -> Float[Tensor, "B H q V"]:
        """The gradient with respect to beta E, given the gradient with respect to U."""
        return solve_triangular((self.overlap * self.beta).mT, grad_written, upper=True, unitriangular=True)

    def advance(self, state: Float[Tensor, "B H V K"], written: Float[Tensor, "B H q V"]) -> Float[Tensor, "B H V K"]:
        """The state after the chunk."""
        return (written.mT @ (self.k * self.out)).addcmul_(state, self.into[..., -1:, :])


class _Sequence(NamedTuple):
    """Rows of the batch processed together, or one packed sequence."""

    inputs: Inputs
    rows: slice
    tokens: range
    states: slice

    @property
    def initial_state(self) -> Float[Tensor, "B H V K"]:
        given = self.inputs.initial_state
        if given is not None:
            return given[self.states]
        num_sequences = len(range(*self.states.indices(self.inputs.num_sequences)))
        return self.inputs.v.new_zeros(num_sequences, *self.inputs.state_shape[1:])

    def chunks(self, chunk_size: int) -> Iterator[slice]:
        for start in range(self.tokens.start, self.tokens.stop, chunk_size):
            yield slice(start, min(start + chunk_size, self.tokens.stop))

    def heads(self, tensor: Float[Tensor, "B T heads width"], tokens: slice) -> Float[Tensor, "B H q width"]:
        """Some tokens; a copy only where heads share them."""
        part = tensor[self.rows, tokens].transpose(1, 2)
        num_shares = self.inputs.g.shape[2] // part.shape[1]
        return part if num_shares == 1 else part.repeat_interleave(num_shares, dim=1)

    def chunk(self, tokens: slice) -> _Chunk:
        log_decay = self.inputs.g[self.rows, tokens].transpose(1, 2)
        spans = span_sums(log_decay)
        decay = spans.exp()
        k = self.heads(self.inputs.k, tokens)
        return _Chunk(
            q=self.heads(self.inputs.q, tokens),
            k=k,
            v=self.heads(self.inputs.v, tokens),
            beta=self.inputs.beta[self.rows, tokens].transpose(1, 2)[..., None],
            decay=decay,
            overlap=((k @ k.mT) * decay).tril_(-1),
            into=log_decay.cumsum(-1).exp_()[..., None],
            out=spans[..., -1, :].exp()[..., None],
        )


def _sequences(inputs: Inputs) -> Iterator[_Sequence]:
    if inputs.starts is None:
        yield _Sequence(inputs, slice(None), range(inputs.q.shape[1]), slice(None))
        return
    for number, (start, stop) in enumerate(pairwise(inputs.starts)):
        yield _Sequence(inputs, slice(0, 1), range(start, stop), slice(number, number + 1))


def _shared(gradient: Float[Tensor, "B H q width"], num_heads: int) -> Float[Tensor, "B q heads width"]:
    """A gradient by token, added up over the heads that share keys and queries."""
    batch, all_heads, *rest = gradient.shape
    return gradient.view(batch, num_heads, all_heads // num_heads, *rest).sum(2).transpose(1, 2)


def _backward_of_sequence(
    sequence: _Sequence, chunk_size: int, grad_y: Tensor, grad_final_state: Tensor | None, grads: Gradients
) -> None:
    """With dR the gradient of beta E and dv = beta dR.

    Through the scores, d(q_i · k_j) = scale L_ij (dy_i · u_j) and d(k_i · k_j) = -L_ij (dv_i · u_j).
    The gradient of the log decay of token t sums everything that passes from before t to t or later. It is built from
    sums of these terms only: a difference of larger sums would be pure rounding where almost nothing passes.
    """
    chunks = list(sequence.chunks(chunk_size))
    states = [sequence.initial_state]
    for tokens in chunks[:-1]:
        chunk = sequence.chunk(tokens)
        states.append(chunk.advance(states[-1], chunk.solve(chunk.unpredicted(states[-1]))))
    grad_state = torch.zeros_like(states[0])
    if grad_final_state is not None:
        grad_state = grad_final_state[sequence.states]
    rows, inputs = sequence.rows, sequence.inputs
    for tokens in reversed(chunks):
        state = states.pop()
        chunk = sequence.chunk(tokens)
        q, k = chunk.q, chunk.k
        grad_outputs = grad_y[rows, tokens].transpose(1, 2) * inputs.scale
        unpredicted = chunk.unpredicted(state)
        written = chunk.solve(unpredicted)
        scores = (q @ k.mT) * chunk.decay

        grad_written = scores.mT @ grad_outputs + (k @ grad_state.mT) * chunk.out
        grad_beta_error = chunk.solve_transposed(grad_written)
        grad_v = grad_beta_error * chunk.beta
        grad_beta = (grad_beta_error * (unpredicted - chunk.overlap @ written)).sum(-1)

        weights_q = (grad_outputs @ written.mT) * chunk.decay
        weights_k = ((grad_v @ written.mT) * chunk.decay).tril_(-1).neg_()
        q_from_state = (grad_outputs @ state) * chunk.into
        k_from_state = (grad_v @ state) * -chunk.into
        k_from_behind = (written @ grad_state) * chunk.out
        grad_q = weights_q @ k + q_from_state
        grad_k = weights_q.mT @ q + (weights_k + weights_k.mT) @ k + k_from_state + k_from_behind

        grad_g = sums_passing(weights_q * (q @ k.mT) + weights_k * (k @ k.mT))
        grad_g += (q_from_state * q + k_from_state * k).sum(-1).flip(-1).cumsum(-1).flip(-1)
        grad_g[..., 1:] += (k_from_behind * k).sum(-1).cumsum(-1)[..., :-1]
        grad_g += (grad_state * state).sum((-1, -2))[..., None] * chunk.into[..., -1, :]

        for gradient, found in ((grads.q, grad_q), (grads.k, grad_k), (grads.v, grad_v)):
            gradient[rows, tokens] = _shared(found, gradient.shape[2])
        grads.g[rows, tokens] = grad_g.transpose(1, 2)
        grads.beta[rows, tokens] = grad_beta.transpose(1, 2)
        read = (grad_outputs * chunk.into).mT @ q - (grad_v * chunk.into).mT @ k
        grad_state = read.addcmul_(grad_state, chunk.into[..., -1:, :])
    if grads.initial_state is not None:
        grads.initial_state[sequence.states] = grad_state
