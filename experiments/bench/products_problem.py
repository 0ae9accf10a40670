"""The problem of `lab bench products`: a linear layer's product or one of its gradients, and some exact rows of it."""

# Letters: R rows, I inputs, O outputs, S rows of the result that are compared.

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from lab.core.products.implementations import Operation
from lab.core.runs.random_streams import Seeds
from lab.experiments.bench.accuracy import largest_difference
from lab.experiments.bench.rates import Work

# Largest error over the largest entry. float32: rounding of sums of up to 8,192 terms; bfloat16: that of the result.
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 1e-2}
# rows of the result that are compared, spread over it: all of it in float64 would take longer than the timing
_NUM_COMPARED = 32

# two operands: x or the output's gradient, and the weight or x
Product = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProductSetting:
    """A weight, and what is computed with it.

    Attributes:
        outputs: O.
        inputs: I.
        rows: R.
        operation: the product, or one of its gradients.
        dtype: of all operands.
        streamed_bytes: with few rows, weights of so many bytes in total take turns, so that each comes from memory, as
            in the decoding of a model that is larger than the caches; 0: one weight.
    """

    outputs: int
    inputs: int
    rows: int
    operation: Operation
    dtype: torch.dtype
    streamed_bytes: int = 0

    @property
    def work(self) -> Work:
        """Two operations for each row and weight; with few rows, the weight is read."""
        flops = 2.0 * self.rows * self.outputs * self.inputs
        read_bytes = self.outputs * self.inputs * self.dtype.itemsize if self.streamed_bytes else 0
        return Work(
            dtype=str(self.dtype).removeprefix("torch."), flops=flops, executed_flops=flops, read_bytes=read_bytes
        )


class ProductProblem:
    """Random operands and exact results."""

    def __init__(self, setting: ProductSetting) -> None:
        self.setting = setting
        generator = Seeds(0).torch("products", setting.rows)

        def draw(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator).to(setting.dtype)

        left_width = setting.inputs if setting.operation is Operation.forward else setting.outputs
        self.left = draw(setting.rows, left_width)
        if setting.operation is Operation.weight_gradient:
            self.right = [draw(setting.rows, setting.inputs)]
        else:
            weight = draw(setting.outputs, setting.inputs)
            num_copies = max(1, setting.streamed_bytes // weight.nbytes)
            self.right = [weight, *(weight.clone() for _ in range(num_copies - 1))]

    def call(self, product: Product) -> Callable[[], Tensor]:
        """The timed call of a gradient, as autograd calls it."""
        turns = itertools.cycle(self.right)
        return lambda: product(self.left, next(turns))

    def call_layer(self, layer: type[nn.Linear]) -> Callable[[], Tensor]:
        """The timed call of the product, as a model calls it."""
        setting = self.setting
        with torch.device("meta"):
            layers = [layer(setting.inputs, setting.outputs, bias=False) for _ in self.right]
        for each, weight in zip(layers, self.right, strict=True):
            each.weight = nn.Parameter(weight, requires_grad=False)
        turns = itertools.cycle(layers)
        return lambda: next(turns)(self.left)

    @cached_property
    def _compared(self) -> Tensor:
        num_rows = self.setting.outputs if self.setting.operation is Operation.weight_gradient else self.setting.rows
        return torch.linspace(0, num_rows - 1, min(num_rows, _NUM_COMPARED)).long()

    @cached_property
    def _exact(self) -> Sequence[Tensor]:
        rows, right = self._compared, self.right[0].double()
        if self.setting.operation is Operation.weight_gradient:
            return [self.left[:, rows].double().T @ right]
        left = self.left[rows].double()
        return [left @ (right.T if self.setting.operation is Operation.forward else right)]

    def difference(self, found: Tensor) -> float:
        """Largest difference of some rows of a result from the exact ones; infinite for a wrong shape."""
        if len(found) != (
            self.setting.outputs if self.setting.operation is Operation.weight_gradient else self.setting.rows
        ):
            return float("inf")
        return largest_difference([found[self._compared]], self._exact)
