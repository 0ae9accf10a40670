"""What computes the products of a linear layer: its output, and the gradients of its input and its weight.

torch        the library's own: MKL, oneDNN or Accelerate, as torch was built; cuBLAS on a GPU
onednn       oneDNN's inner product, which torch brings along for compiled models
native       a loop of the project's, for up to 16 rows; it has no gradients
packed       the project's product of packed blocks
"""

# Letters: R rows, I inputs, O outputs.

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor
from torch.nn import functional

from lab.core.products import cpu, native, packed


class Operation(Enum):
    """A product of a layer with a weight (O, I), and the operands of its function."""

    forward = "forward"
    """x (R, I), the weight, and a bias (O) or None: (R, O)."""
    input_gradient = "input gradient"
    """The output's gradient (R, O), the weight: (R, I)."""
    weight_gradient = "weight gradient"
    """The output's gradient (R, O), x (R, I): (O, I)."""


@dataclass(frozen=True, slots=True, eq=False)
class Implementation:
    """One way to compute products; compared by identity.

    Attributes:
        name: in configurations.
        why_not: given device and dtype, None if it can run there, else the reason.
        functions: for each operation that it has; without a graph.
        most_rows: rows up to which it is meant to be used; None: any number.
    """

    name: str
    why_not: Callable[[torch.device, torch.dtype], str | None]
    functions: Mapping[Operation, Callable[..., Tensor]]
    most_rows: int | None = None

    def has(self, operation: Operation, rows: int) -> bool:
        """Whether it computes an operation on so many rows."""
        return operation in self.functions and (self.most_rows is None or rows <= self.most_rows)


def _runs_everywhere(device: torch.device, dtype: torch.dtype) -> None:
    return None


def _torch_input_gradient(gradient: Tensor, weight: Tensor) -> Tensor:
    return gradient @ weight


def _torch_weight_gradient(gradient: Tensor, x: Tensor) -> Tensor:
    return gradient.t() @ x


def _why_not_onednn(device: torch.device, dtype: torch.dtype) -> str | None:
    reason = cpu.why_not(device, dtype, (torch.float32, torch.bfloat16))
    if reason is not None:
        return reason
    is_there: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if not is_there or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return f"torch {torch.__version__} was built without it"
    if dtype is torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return "this processor has no instructions for bfloat16"
    return None


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    # it reads a bias as if it were contiguous; a weight may also be transposed
    bias = None if bias is None else bias.contiguous()
    weight = weight if weight.t().is_contiguous() else weight.contiguous()
    # "none": nothing is fused behind the product
    return torch.ops.mkldnn._linear_pointwise(x.contiguous(), weight, bias, "none", [], "")


def _onednn_input_gradient(gradient: Tensor, weight: Tensor) -> Tensor:
    return _onednn(gradient, weight.t())


def _onednn_weight_gradient(gradient: Tensor, x: Tensor) -> Tensor:
    return _onednn(gradient.t(), x.t())


TORCH = Implementation(
    "torch",
    _runs_everywhere,
    {
        Operation.forward: functional.linear,
        Operation.input_gradient: _torch_input_gradient,
        Operation.weight_gradient: _torch_weight_gradient,
    },
)
ONEDNN = Implementation(
    "onednn",
    _why_not_onednn,
    {
        Operation.forward: _onednn,
        Operation.input_gradient: _onednn_input_gradient,
        Operation.weight_gradient: _onednn_weight_gradient,
    },
)
NATIVE = Implementation("native", native.why_not, {Operation.forward: native.forward}, most_rows=16)
PACKED = Implementation(
    "packed",
    packed.why_not,
    {
        Operation.forward: packed.forward,
        Operation.input_gradient: packed.input_gradient,
        Operation.weight_gradient: packed.weight_gradient,
    },
)
# torch first; each must beat the one that was chosen before it
IMPLEMENTATIONS = {each.name: each for each in (TORCH, PACKED, ONEDNN, NATIVE)}
