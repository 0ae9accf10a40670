"""The chunked gated delta rule in C++ (`core/native/src/delta_rule.cpp`), through its plain C interface."""

# Letters: B batch, T tokens, H heads, Hq, Hk, Hv heads of q, k and v, K key_dim, V value_dim, S sequences.

import ctypes
from math import lcm

import torch
from torch import Tensor

from lab.core.delta_rule.chunked.inputs import Gradients, Inputs
from lab.core.native.build import load_native
from lab.core.native.views import View, contiguous_rows, view_of

SOURCE = "delta_rule.cpp"

# Tokens per chunk, measured on x86-64 with AVX2: short chunks spend less on pairs of tokens, long ones move the state
# between registers and cache less often. A multiple of the rows of a register tile, 6 or 8.
FORWARD_CHUNK = 48
BACKWARD_CHUNK = 48

# below this many multiplications a second thread does not pay off
_MIN_WORK_PER_THREAD = 4_000_000

# Heads that share queries, keys or values accumulate into the same gradients. If that leaves fewer tasks than this,
# they are split, each part with a private copy. The number depends only on the heads: neither the threads nor the other
# sequences may change the order of a sum.
_MIN_TASKS = 8


class _Arguments(ctypes.Structure):
    """`Arguments` of core/native/src/delta_arguments.h."""

    _fields_ = [
        *(
            (name, ctypes.c_int64)
            for name in (
                "num_sequences",
                "num_tokens",
                "num_heads",
                "key_dim",
                "value_dim",
                "chunk_size",
                "num_threads",
                "q_share",
                "k_share",
                "v_share",
                "heads_per_task",
            )
        ),
        ("scale", ctypes.c_double),
        ("starts", ctypes.c_void_p),
        *((name, View) for name in ("q", "k", "v", "g", "beta", "y")),
        *((name, ctypes.c_void_p) for name in ("initial_state", "final_state")),
        *((name, View) for name in ("grad_y", "grad_q", "grad_k", "grad_v", "grad_g", "grad_beta")),
        *((name, ctypes.c_int64) for name in ("grad_q_copy", "grad_k_copy", "grad_v_copy")),
        *((name, ctypes.c_void_p) for name in ("grad_final_state", "grad_initial_state")),
    ]


def why_not() -> str | None:
    """None if the library is built or can be built now; else the reason and the fix."""
    return load_native(SOURCE).why_not


def forward(inputs: Inputs, chunk_size: int | None) -> tuple[Tensor, Tensor]:
    """Output and final state."""
    kept = _with_contiguous_rows(inputs)
    y, final_state = inputs.v.new_empty(inputs.output_shape), inputs.v.new_empty(inputs.state_shape)
    arguments, _starts = _describe(kept, chunk_size or FORWARD_CHUNK)
    arguments.y = view_of(y)
    arguments.final_state = final_state.data_ptr()
    _call("forward", y.dtype, arguments)
    return y, final_state


def backward(inputs: Inputs, chunk_size: int | None, grad_y: Tensor, grad_final_state: Tensor | None) -> Gradients:
    """Gradients of all inputs."""
    kept = _with_contiguous_rows(inputs)
    grad_y = contiguous_rows(grad_y)
    arguments, _starts = _describe(kept, chunk_size or BACKWARD_CHUNK)
    shares = arguments.q_share, arguments.k_share, arguments.v_share
    arguments.heads_per_task = _heads_per_task(arguments.num_heads, shares)
    new = inputs.v.new_empty
    grad_q, grad_k, grad_v = (
        new((max(1, share // arguments.heads_per_task), *tensor.shape))
        for tensor, share in zip(inputs[:3], shares, strict=True)
    )
    grad_g, grad_beta, grad_initial_state = new(inputs.g.shape), new(inputs.beta.shape), new(inputs.state_shape)
    arguments.grad_y, arguments.grad_g, arguments.grad_beta = view_of(grad_y), view_of(grad_g), view_of(grad_beta)
    arguments.grad_q, arguments.grad_q_copy = view_of(grad_q[0]), grad_q.stride(0)
    arguments.grad_k, arguments.grad_k_copy = view_of(grad_k[0]), grad_k.stride(0)
    arguments.grad_v, arguments.grad_v_copy = view_of(grad_v[0]), grad_v.stride(0)
    if grad_final_state is not None:
        grad_final_state = grad_final_state.contiguous()
        arguments.grad_final_state = grad_final_state.data_ptr()
    arguments.grad_initial_state = grad_initial_state.data_ptr()
    _call("backward", inputs.v.dtype, arguments)
    q, k, v = (copies[0] if len(copies) == 1 else copies.sum(0) for copies in (grad_q, grad_k, grad_v))
    return Gradients(
        q=q,
        k=k,
        v=v,
        g=grad_g,
        beta=grad_beta,
        initial_state=None if inputs.initial_state is None else grad_initial_state,
    )


def _heads_per_task(num_heads: int, shares: tuple[int, int, int]) -> int:
    """Number of heads per task: all that share anything, or a part of them if that leaves too few tasks.

    A part consists of whole groups that share a head of q, or lies within one such group; likewise for k and v.
    """
    together = lcm(*shares)
    fitting = [
        size
        for size in range(1, together + 1)
        if together % size == 0 and all(size % share == 0 or share % size == 0 for share in shares)
    ]
    enough = [size for size in fitting if num_heads // size >= _MIN_TASKS]
    return max(enough, default=1)


def _with_contiguous_rows(inputs: Inputs) -> Inputs:
    state = inputs.initial_state
    return inputs._replace(
        q=contiguous_rows(inputs.q),
        k=contiguous_rows(inputs.k),
        v=contiguous_rows(inputs.v),
        initial_state=None if state is None else state.contiguous(),
    )


def _describe(inputs: Inputs, chunk_size: int) -> tuple[_Arguments, ctypes.Array[ctypes.c_int64] | None]:
    """The inputs as a C struct, and the objects that must outlive the call."""
    num_sequences, num_heads, value_dim, key_dim = inputs.state_shape
    starts = None if inputs.starts is None else (ctypes.c_int64 * len(inputs.starts))(*inputs.starts)
    work = inputs.g.numel() * key_dim * value_dim
    arguments = _Arguments(
        num_sequences=num_sequences,
        num_tokens=inputs.g.shape[1],
        num_heads=num_heads,
        key_dim=key_dim,
        value_dim=value_dim,
        chunk_size=max(1, min(chunk_size, inputs.longest)),
        num_threads=max(1, min(torch.get_num_threads(), work // _MIN_WORK_PER_THREAD)),
        q_share=num_heads // inputs.q.shape[2],
        k_share=num_heads // inputs.k.shape[2],
        v_share=num_heads // inputs.v.shape[2],
        heads_per_task=1,
        scale=inputs.scale,
        starts=ctypes.cast(starts, ctypes.c_void_p) if starts is not None else None,
        q=view_of(inputs.q),
        k=view_of(inputs.k),
        v=view_of(inputs.v),
        g=view_of(inputs.g),
        beta=view_of(inputs.beta),
    )
    if inputs.initial_state is not None:
        arguments.initial_state = inputs.initial_state.data_ptr()
    return arguments, starts


def _call(name: str, dtype: torch.dtype, arguments: _Arguments) -> None:
    library = load_native(SOURCE).library
    assert library is not None, "the tier is chosen only where the library is there"
    function = getattr(library, f"delta_rule_{name}_{str(dtype).removeprefix('torch.')}")
    function.restype = ctypes.c_bool
    if not function(ctypes.byref(arguments)):
        raise MemoryError(f"no memory for the {name} pass of the gated delta rule on {arguments.num_threads} threads")
