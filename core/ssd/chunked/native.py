"""The chunked SSD operator in C++ (`core/native/src/chunked.cpp`), through its plain C interface."""

# Letters: B batch, T tokens, H heads, G groups, P head_dim, N state_dim, S sequences.

import ctypes

import torch
from torch import Tensor

from lab.core.native.build import load_native
from lab.core.native.views import View, contiguous_rows, view_of
from lab.core.ssd.chunked.inputs import Gradients, Inputs

SOURCE = "chunked.cpp"

# Tokens per chunk, measured on x86-64 with AVX-512 and AVX2: short chunks waste less work above the diagonal, long ones
# move the state between registers and cache less often.
FORWARD_CHUNK = 32
BACKWARD_CHUNK = 64

# below this many multiplications a second thread does not pay off
_MIN_WORK_PER_THREAD = 4_000_000

# Heads of a group accumulate into the same gradients of B and C. They do so in at least this many lanes, each with a
# private copy, so that many threads have work. The number depends only on the heads: neither the threads nor the other
# sequences may change the order of a sum.
_MIN_TASKS = 16


class _Arguments(ctypes.Structure):
    """`Arguments` of core/native/src/buffers.h."""

    _fields_ = [
        *(
            (name, ctypes.c_int64)
            for name in (
                "num_sequences",
                "num_tokens",
                "num_heads",
                "num_groups",
                "head_dim",
                "state_dim",
                "chunk_size",
                "num_lanes",
                "num_threads",
                "is_softplus",
            )
        ),
        ("starts", ctypes.c_void_p),
        *((name, View) for name in ("x", "dt", "B", "C", "D", "y")),
        *((name, ctypes.c_void_p) for name in ("A", "dt_bias", "initial_state", "final_state")),
        *((name, View) for name in ("grad_y", "grad_x", "grad_dt", "grad_B", "grad_C")),
        *(
            (name, ctypes.c_void_p)
            for name in ("grad_final_state", "grad_initial_state", "grad_A", "grad_D", "grad_dt_bias")
        ),
        *((name, ctypes.c_int64) for name in ("grad_B_lane", "grad_C_lane")),
    ]


def why_not() -> str | None:
    """None if the library is built or can be built now; else the reason and the fix."""
    return load_native(SOURCE).why_not


def forward(inputs: Inputs, chunk_size: int | None) -> tuple[Tensor, Tensor]:
    """Output and final state."""
    kept = _withcontiguous_rows(inputs)
    y = torch.empty(inputs.x.shape, dtype=inputs.x.dtype)
    final_state = torch.empty(inputs.state_shape, dtype=inputs.x.dtype)
    arguments, _starts = _describe(kept, chunk_size or FORWARD_CHUNK)
    arguments.y = view_of(y)
    arguments.final_state = final_state.data_ptr()
    _call("forward", inputs.x.dtype, arguments)
    return y, final_state


def backward(inputs: Inputs, chunk_size: int | None, grad_y: Tensor, grad_final_state: Tensor | None) -> Gradients:
    """Gradients of all inputs."""
    kept = _withcontiguous_rows(inputs)
    grad_y = contiguous_rows(grad_y)
    arguments, _starts = _describe(kept, chunk_size or BACKWARD_CHUNK)
    num_sequences, num_heads, head_dim, _ = inputs.state_shape
    num_lanes = _num_lanes(inputs)
    new = inputs.x.new_empty
    grad_x, grad_dt = new(inputs.x.shape), new(inputs.dt.shape)
    grad_B, grad_C = new((num_lanes, *inputs.B.shape)), new((num_lanes, *inputs.C.shape))
    grad_initial_state = new(inputs.state_shape)
    grad_A, grad_dt_bias = new(num_sequences, num_heads), new(num_sequences, num_heads)
    grad_D = new(num_sequences, num_heads, head_dim)
    arguments.num_lanes = num_lanes
    arguments.grad_y, arguments.grad_x, arguments.grad_dt = view_of(grad_y), view_of(grad_x), view_of(grad_dt)
    arguments.grad_B, arguments.grad_C = view_of(grad_B[0]), view_of(grad_C[0])
    arguments.grad_B_lane, arguments.grad_C_lane = grad_B.stride(0), grad_C.stride(0)
    if grad_final_state is not None:
        grad_final_state = grad_final_state.contiguous()
        arguments.grad_final_state = grad_final_state.data_ptr()
    arguments.grad_initial_state = grad_initial_state.data_ptr()
    arguments.grad_A, arguments.grad_D = grad_A.data_ptr(), grad_D.data_ptr()
    arguments.grad_dt_bias = grad_dt_bias.data_ptr()
    _call("backward", inputs.x.dtype, arguments)
    total_D = None
    if inputs.D is not None:
        total_D = grad_D.sum(0) if inputs.D.ndim == 2 else grad_D.sum((0, 2))
    return Gradients(
        x=grad_x,
        dt=grad_dt,
        A=grad_A.sum(0),
        B=grad_B[0] if num_lanes == 1 else grad_B.sum(0),
        C=grad_C[0] if num_lanes == 1 else grad_C.sum(0),
        D=total_D,
        dt_bias=None if inputs.dt_bias is None else grad_dt_bias.sum(0),
        initial_state=None if inputs.initial_state is None else grad_initial_state,
    )


def _num_lanes(inputs: Inputs) -> int:
    """A divisor of the heads per group: enough for `_MIN_TASKS` tasks, few enough to keep the copies small."""
    num_groups, state_dim = inputs.B.shape[2:]
    num_heads, head_dim = inputs.x.shape[2:]
    heads_per_group = num_heads // num_groups
    most = num_heads * head_dim // (4 * num_groups * state_dim)
    lanes = 1
    for divisor in range(2, heads_per_group + 1):
        enough = lanes * num_groups >= _MIN_TASKS
        if not enough and heads_per_group % divisor == 0 and divisor <= most:
            lanes = divisor
    return lanes


def _withcontiguous_rows(inputs: Inputs) -> Inputs:
    bias, state = inputs.dt_bias, inputs.initial_state
    return inputs._replace(
        x=contiguous_rows(inputs.x),
        A=inputs.A.contiguous(),
        dt_bias=None if bias is None else bias.contiguous(),
        B=contiguous_rows(inputs.B),
        C=contiguous_rows(inputs.C),
        initial_state=None if state is None else state.contiguous(),
    )


def _describe(inputs: Inputs, chunk_size: int) -> tuple[_Arguments, ctypes.Array[ctypes.c_int64] | None]:
    """The inputs as a C struct, and the objects that must outlive the call."""
    num_sequences, num_heads, head_dim, state_dim = inputs.state_shape
    starts = None if inputs.starts is None else (ctypes.c_int64 * len(inputs.starts))(*inputs.starts)
    work = inputs.x.numel() * state_dim
    arguments = _Arguments(
        num_sequences=num_sequences,
        num_tokens=inputs.x.shape[1],
        num_heads=num_heads,
        num_groups=inputs.B.shape[2],
        head_dim=head_dim,
        state_dim=state_dim,
        chunk_size=max(1, min(chunk_size, inputs.longest)),
        num_lanes=1,
        num_threads=max(1, min(torch.get_num_threads(), work // _MIN_WORK_PER_THREAD)),
        is_softplus=inputs.is_softplus,
        starts=ctypes.cast(starts, ctypes.c_void_p) if starts is not None else None,
        x=view_of(inputs.x),
        dt=view_of(inputs.dt),
        B=view_of(inputs.B),
        C=view_of(inputs.C),
        A=inputs.A.data_ptr(),
    )
    if inputs.dt_bias is not None:
        arguments.dt_bias = inputs.dt_bias.data_ptr()
    if inputs.D is not None:
        by_column = inputs.D.stride(1) if inputs.D.ndim == 2 else 0
        arguments.D = View(inputs.D.data_ptr(), 0, by_column, inputs.D.stride(0))
    if inputs.initial_state is not None:
        arguments.initial_state = inputs.initial_state.data_ptr()
    return arguments, starts


def _call(name: str, dtype: torch.dtype, arguments: _Arguments) -> None:
    library = load_native(SOURCE).library
    assert library is not None, "the tier is chosen only where the library is there"
    function = getattr(library, f"ssd_{name}_{str(dtype).removeprefix('torch.')}")
    function.restype = ctypes.c_bool
    if not function(ctypes.byref(arguments)):
        raise MemoryError(f"no memory for the {name} pass of the SSD operator on {arguments.num_threads} threads")
