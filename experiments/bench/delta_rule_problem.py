"""The problem of `lab bench delta-rule`: one draw of the operator's arguments, and its exact results."""

# Letters: B batch, T tokens, H heads, K key_dim, V value_dim; every head its own queries, keys and values.

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from lab.core.delta_rule.chunked import inputs as chunks
from lab.core.delta_rule.chunked import portable
from lab.core.runs.random_streams import Seeds
from lab.experiments.bench.accuracy import Mode, largest_difference


@dataclass(frozen=True, slots=True, kw_only=True)
class DeltaRuleSetting:
    """Sizes, precision and device of a problem."""

    num_tokens: int
    num_heads: int
    key_dim: int
    value_dim: int
    num_batch: int = 1
    dtype: torch.dtype = torch.float32
    device: str = "cpu"

    def __str__(self) -> str:
        precision = str(self.dtype).removeprefix("torch.")
        return (
            f"{precision}, batch {self.num_batch}, H = {self.num_heads}, K = {self.key_dim}, V = {self.value_dim}, "
            f"T = {self.num_tokens:,}, every head its own queries, keys and values, {self.device}"
        )

    @property
    def scale(self) -> float:
        """Attention's, which others have built in."""
        return float(self.key_dim**-0.5)


class Inputs(NamedTuple):
    """The operator's arguments."""

    q: Float[Tensor, "B T H K"]
    k: Float[Tensor, "B T H K"]
    v: Float[Tensor, "B T H V"]
    g: Float[Tensor, "B T H"]
    beta: Float[Tensor, "B T H"]


# outputs of all tokens at the setting's scale
Operator = Callable[[Inputs], Float[Tensor, "B T H V"]]


class DeltaRuleProblem:
    """Arguments as in a layer at the start of training, and their exact results, computed on demand.

    Unit queries and keys, strengths the sigmoid of a normal number; step sizes log-uniform in [0.001, 0.1] and decay
    rates uniform in [1, 16], which Gated DeltaNet adopts from Mamba-2.
    """

    def __init__(self, setting: DeltaRuleSetting) -> None:
        self.setting = setting
        generator = Seeds(0).torch("delta rule", setting.num_tokens)
        tokens = (setting.num_batch, setting.num_tokens, setting.num_heads)

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator)

        rates = 1 + 15 * torch.rand(setting.num_heads, generator=generator)
        steps = 0.001 * 100 ** torch.rand(tokens, generator=generator)
        # decays and strengths stay in float32, as in every implementation
        self.inputs = Inputs(
            q=normalize(normal(*tokens, setting.key_dim), dim=-1).to(setting.device, setting.dtype),
            k=normalize(normal(*tokens, setting.key_dim), dim=-1).to(setting.device, setting.dtype),
            v=normal(*tokens, setting.value_dim).to(setting.device, setting.dtype),
            g=(-steps * rates).to(setting.device),
            beta=torch.sigmoid(normal(*tokens)).to(setting.device),
        )

    @cached_property
    def output_gradient(self) -> Float[Tensor, "B T H V"]:
        """The gradient from a later layer."""
        generator = Seeds(0).torch("delta rule/output gradient", self.setting.num_tokens)
        return torch.randn(self.inputs.v.shape, generator=generator).to(self.inputs.v)

    @cached_property
    def output(self) -> Float[Tensor, "B T H V"]:
        """In float64, by the portable chunks, which the tests compare with the recurrence."""
        return portable.forward(self._wide, None)[0]

    @cached_property
    def gradients(self) -> Sequence[Tensor]:
        """Gradients of <output, output_gradient> with respect to each argument, in float64."""
        found = portable.backward(self._wide, None, self.output_gradient.double(), None)
        return found.q, found.k, found.v, found.g, found.beta

    @property
    def _wide(self) -> chunks.Inputs:
        q, k, v, g, beta = (tensor.double() for tensor in self.inputs)
        return chunks.Inputs(q, k, v, g, beta, initial_state=None, starts=None, scale=self.setting.scale)

    def call(self, mode: Mode, operator: Operator) -> Callable[[], Sequence[Tensor]]:
        """The timed call: returns the output, and with a backward pass the gradients of all five arguments."""
        dtype = self.setting.dtype

        def forward() -> Sequence[Tensor]:
            with torch.no_grad():
                return (operator(self.inputs).to(dtype),)

        if mode is Mode.forward:
            return forward
        leaves = Inputs(*(tensor.detach().requires_grad_() for tensor in self.inputs))
        output_gradient = self.output_gradient

        def backward() -> Sequence[Tensor]:
            y = operator(leaves).to(dtype)
            return (y.detach(), *torch.autograd.grad(y, leaves, output_gradient))

        return backward

    def difference(self, mode: Mode, found: Sequence[Tensor]) -> float:
        """Largest difference between the results of a call and the exact ones."""
        return largest_difference(found, [self.output] if mode is Mode.forward else [self.output, *self.gradients])
