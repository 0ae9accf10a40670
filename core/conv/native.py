"""The compiled loops of the causal convolution (`core/native/src/conv.cpp`), through their plain C interface."""

# Letters: B batch, T tokens, C channels, W taps.

import ctypes

import torch
from jaxtyping import Float
from torch import Tensor

from lab.core.native.build import load_native
from lab.core.native.views import View, contiguous_rows, view_of

SOURCE = "conv.cpp"
# of the window of a token there
MOST_TAPS = 64
_DTYPES = (torch.float32, torch.float64)
# below so many entries a second thread does not pay off
_ENTRIES_PER_THREAD = 100_000


class _Arguments(ctypes.Structure):
    """`Arguments` there."""

    _fields_ = [
        *(
            (name, ctypes.c_int64)
            for name in ("num_sequences", "num_tokens", "num_channels", "num_taps", "num_threads", "is_silu")
        ),
        ("x", View),
        ("grad_y", View),
        *((name, ctypes.c_void_p) for name in ("taps", "bias", "before", "y", "grad_x", "grad_before", "grad_taps")),
    ]


def can_run(x: Float[Tensor, "B T C"], num_taps: int) -> bool:
    """Whether the loops are compiled for this input; builds them at the first call."""
    is_fit = x.is_cpu and x.dtype in _DTYPES and num_taps <= MOST_TAPS and x.numel() > 0
    return is_fit and load_native(SOURCE).library is not None


def forward(
    x: Float[Tensor, "B T C"],
    taps: Float[Tensor, "W C"],
    bias: Float[Tensor, " C"],
    before: Float[Tensor, "B W1 C"],
    *,
    is_silu: bool,
) -> Float[Tensor, "B T C"]:
    """The outputs; all tensors have the dtype of x."""
    x, before = contiguous_rows(x), before.contiguous()
    y = torch.empty(x.shape, dtype=x.dtype)
    arguments = _described(x, taps, bias, before, is_silu)
    arguments.y = y.data_ptr()
    _call("forward", x.dtype, arguments)
    return y


def backward(
    grad_y: Float[Tensor, "B T C"],
    x: Float[Tensor, "B T C"],
    taps: Float[Tensor, "W C"],
    bias: Float[Tensor, " C"],
    before: Float[Tensor, "B W1 C"],
    *,
    is_silu: bool,
) -> tuple[Float[Tensor, "B T C"], Float[Tensor, "W C"], Float[Tensor, " C"], Float[Tensor, "B W1 C"]]:
    """The gradients of inputs, taps, bias and the tokens before."""
    x, before, grad_y = contiguous_rows(x), before.contiguous(), contiguous_rows(grad_y)
    grad_x, grad_before = torch.empty(x.shape, dtype=x.dtype), torch.empty_like(before)
    grad_taps = x.new_empty(x.shape[0], len(taps) + 1, x.shape[2])
    arguments = _described(x, taps, bias, before, is_silu)
    arguments.grad_y = view_of(grad_y)
    arguments.grad_x, arguments.grad_before = grad_x.data_ptr(), grad_before.data_ptr()
    arguments.grad_taps = grad_taps.data_ptr()
    _call("backward", x.dtype, arguments)
    total = grad_taps.sum(dim=0)
    return grad_x, total[:-1], total[-1], grad_before


def _described(x: Tensor, taps: Tensor, bias: Tensor, before: Tensor, is_silu: bool) -> _Arguments:
    num_sequences, num_tokens, num_channels = x.shape
    return _Arguments(
        num_sequences=num_sequences,
        num_tokens=num_tokens,
        num_channels=num_channels,
        num_taps=len(taps),
        num_threads=max(1, min(torch.get_num_threads(), x.numel() // _ENTRIES_PER_THREAD)),
        is_silu=is_silu,
        x=view_of(x),
        taps=taps.data_ptr(),
        bias=bias.data_ptr(),
        before=before.data_ptr(),
    )


def _call(name: str, dtype: torch.dtype, arguments: _Arguments) -> None:
    library = load_native(SOURCE).library
    assert library is not None, "can_run was asked before"
    function = getattr(library, f"conv_{name}_{str(dtype).removeprefix('torch.')}")
    function.restype = ctypes.c_bool
    if not function(ctypes.byref(arguments)):
        raise MemoryError(f"no memory for the {name} pass of the convolution on {arguments.num_threads} threads")
