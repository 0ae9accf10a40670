"""The problem of `lab bench ssd`: one draw of the operator's arguments, its exact results, and operation counts."""

# Letters: B batch, T tokens, H heads, P head_dim, N state_dim; as many groups as heads.

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from lab.core.runs.random_streams import Seeds
from lab.experiments.bench.accuracy import Mode, largest_difference
from lab.experiments.bench.ssd_exact import Inputs, exact_output


@dataclass(frozen=True, slots=True, kw_only=True)
class SsdSetting:
    """Sizes, precision and device of a problem."""

    num_tokens: int
    num_heads: int
    head_dim: int
    state_dim: int
    num_batch: int = 1
    dtype: torch.dtype = torch.float32
    device: str = "cpu"

    def __str__(self) -> str:
        precision = str(self.dtype).removeprefix("torch.")
        return (
            f"{precision}, batch {self.num_batch}, H = {self.num_heads}, P = {self.head_dim}, N = {self.state_dim}, "
            f"T = {self.num_tokens:,}, every head its own B and C, {self.device}"
        )


# output of all tokens, at a chunk size (None: its own), in the dtype of x or in float32
Operator = Callable[[Inputs, int | None], Float[Tensor, "B T H P"]]


class SsdProblem:
    """Arguments as in a trained layer, and their exact results, computed on demand.

    Step sizes are log-uniform in [0.001, 0.1] and decay rates uniform in [1, 16], as Mamba-2 initialises them.
    """

    def __init__(self, setting: SsdSetting) -> None:
        self.setting = setting
        generator = Seeds(0).torch("ssd", setting.num_tokens)
        tokens = (setting.num_batch, setting.num_tokens, setting.num_heads)

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator).to(setting.device, setting.dtype)

        def uniform(*shape: int) -> Tensor:
            return torch.rand(shape, generator=generator).to(setting.device)

        # steps and rates stay in float32, as in every implementation
        self.inputs = Inputs(
            x=normal(*tokens, setting.head_dim),
            dt=0.001 * 100 ** uniform(*tokens),
            A=-1 - 15 * uniform(setting.num_heads),
            B=normal(*tokens, setting.state_dim),
            C=normal(*tokens, setting.state_dim),
        )

    @cached_property
    def output_gradient(self) -> Float[Tensor, "B T H P"]:
        """The gradient from a later layer."""
        generator = Seeds(0).torch("ssd/output gradient", self.setting.num_tokens)
        return torch.randn(self.inputs.x.shape, generator=generator).to(self.inputs.x)

    @cached_property
    def output(self) -> Float[Tensor, "B T H P"]:
        """y in float64."""
        with torch.no_grad():
            return exact_output(self.inputs)

    @cached_property
    def gradients(self) -> Inputs:
        """Gradients of <output, output_gradient> with respect to each argument, in float64."""
        leaves = Inputs(*(tensor.double().requires_grad_() for tensor in self.inputs))
        return Inputs(*torch.autograd.grad(exact_output(leaves), leaves, self.output_gradient.double()))

    def call(self, mode: Mode, operator: Operator, chunk_size: int | None) -> Callable[[], Sequence[Tensor]]:
        """The timed call: returns y, and with a backward pass the gradients of all five arguments."""
        dtype = self.setting.dtype

        def forward() -> Sequence[Tensor]:
            with torch.no_grad():
                return (operator(self.inputs, chunk_size).to(dtype),)

        if mode is Mode.forward:
            return forward
        leaves = Inputs(*(tensor.detach().requires_grad_() for tensor in self.inputs))
        output_gradient = self.output_gradient

        def backward() -> Sequence[Tensor]:
            y = operator(leaves, chunk_size).to(dtype)
            return (y.detach(), *torch.autograd.grad(y, leaves, output_gradient))

        return backward

    def difference(self, mode: Mode, found: Sequence[Tensor]) -> float:
        """Largest difference between the results of a call and the exact ones."""
        return largest_difference(found, [self.output] if mode is Mode.forward else [self.output, *self.gradients])
