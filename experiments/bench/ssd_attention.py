"""Causal softmax attention, which the state-space operator replaces: timed, and checked against its definition."""

# Letters: B batch, T tokens, H heads, P head_dim, N state_dim, R rows that are compared.

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from lab.experiments.bench.accuracy import TOLERANCE, Mode, largest_difference
from lab.experiments.bench.harness import Candidate
from lab.experiments.bench.operations import attention_operations
from lab.experiments.bench.rates import Work
from lab.experiments.bench.ssd_problem import SsdProblem, SsdSetting

ATTENTION = "causal softmax attention (SDPA)"
# number of compared rows, spread over the sequence: the whole square in float64 would not fit
_NUM_ROWS = 16
# number of rows of the square materialised at once for the gradient
_BLOCK_ROWS = 512


class Attention:
    """Attention with C as queries, B as keys and x as values, each head's tokens contiguous for speed."""

    def __init__(self, problem: SsdProblem) -> None:
        x, _, _, B, C = problem.inputs
        self.query, self.key, self.value = (tensor.transpose(1, 2).contiguous() for tensor in (C, B, x))
        self._problem = problem

    def call(self, mode: Mode) -> Callable[[], Sequence[Tensor]]:
        """The timed call: returns the output, and with a backward pass the gradients of queries, keys and values."""

        def forward() -> Sequence[Tensor]:
            with torch.no_grad():
                return (scaled_dot_product_attention(self.query, self.key, self.value, is_causal=True),)

        if mode is Mode.forward:
            return forward
        query, key, value = (tensor.detach().requires_grad_() for tensor in (self.query, self.key, self.value))
        output_gradient = self._problem.output_gradient.transpose(1, 2).contiguous()

        def backward() -> Sequence[Tensor]:
            output = scaled_dot_product_attention(query, key, value, is_causal=True)
            return (output.detach(), *torch.autograd.grad(output, (query, key, value), output_gradient))

        return backward

    def difference(self, mode: Mode, found: Sequence[Tensor]) -> float:
        """Largest difference from the exact results: some rows for a forward, all for a backward."""
        query, key, value = (tensor.double().requires_grad_() for tensor in (self.query, self.key, self.value))
        num_tokens, device = self.query.shape[2], self.query.device
        if mode is Mode.forward:
            rows = torch.linspace(0, num_tokens - 1, min(num_tokens, _NUM_ROWS), device=device).long()
            with torch.no_grad():
                return largest_difference([found[0][:, :, rows]], [_rows(query, key, value, rows)])
        output_gradient = self._problem.output_gradient.transpose(1, 2).double()
        outputs: list[Tensor] = []
        gradients = [torch.zeros_like(leaf) for leaf in (query, key, value)]
        for rows in torch.split(torch.arange(num_tokens, device=device), _BLOCK_ROWS):
            output = _rows(query, key, value, rows)
            outputs.append(output.detach())
            parts = torch.autograd.grad(output, (query, key, value), output_gradient[:, :, rows])
            for gradient, part in zip(gradients, parts, strict=True):
                gradient += part
        return largest_difference(found, [torch.cat(outputs, dim=2), *gradients])


def attention_candidate(problem: SsdProblem, mode: Mode, *, required_ratio: float | None = None) -> Candidate:
    """Attention on the problem's arguments."""
    attention = Attention(problem)
    return Candidate(
        name=ATTENTION,
        run=attention.call(mode),
        difference=partial(attention.difference, mode),
        tolerance=TOLERANCE[mode, problem.setting.dtype],
        unit="of the largest",
        required_ratio=required_ratio,
        work=_work(problem.setting) if mode is Mode.forward else None,
    )


def _work(setting: SsdSetting) -> Work:
    """Operations of a forward, without the half of the square that no token sees."""
    per_head = attention_operations(setting.num_tokens, setting.state_dim, setting.head_dim)
    flops = per_head.paper * setting.num_batch * setting.num_heads
    return Work(dtype=str(setting.dtype).removeprefix("torch."), flops=flops)


def _rows(
    query: Float[Tensor, "B H T N"],
    key: Float[Tensor, "B H T N"],
    value: Float[Tensor, "B H T P"],
    rows: Int[Tensor, " R"],
) -> Float[Tensor, "B H R P"]:
    """softmax(q k' / sqrt(N)) v over the keys up to each row."""
    scores = query[:, :, rows] @ key.transpose(2, 3) / math.sqrt(query.shape[3])
    is_future = torch.arange(key.shape[2], device=key.device) > rows[:, None]
    return scores.masked_fill(is_future, -torch.inf).softmax(dim=-1) @ value
