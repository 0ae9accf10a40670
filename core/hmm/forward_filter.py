"""The forward recursion of a discrete HMM over many sequences: compiled, or in torch without a compiler.

joint_t = (posterior_{t-1} A) * E[:, x_t], mass_t = sum joint_t, posterior_t = joint_t / mass_t.
"""

# Letters: S states, V tokens of the vocabulary, N sequences, T tokens of a sequence.

import ctypes
from functools import cache
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lab.core.native.build import load_native

_SOURCE = "hmm_filter.cpp"

# below this many multiplications a second thread does not pay off
_MIN_WORK_PER_THREAD = 4_000_000


class Forward(NamedTuple):
    """Result of the recursion.

    Attributes:
        posterior: p(h_T | x_1 .. x_T).
        masses: p(x_t | x_1 .. x_{t-1}); after a zero, all later ones are NaN.
    """

    posterior: Float[Tensor, "N S"]
    masses: Float[Tensor, "T N"]


class _Arguments(ctypes.Structure):
    """`Arguments` of core/native/src/hmm_filter.cpp."""

    _fields_ = [
        *(
            (name, ctypes.c_int64)
            for name in (
                "num_sequences",
                "num_tokens",
                "num_states",
                "vocabulary",
                "num_threads",
                "next_token",
                "next_sequence",
            )
        ),
        *((name, ctypes.c_void_p) for name in ("tokens", "initial", "transition", "emission", "posterior", "masses")),
    ]


def forward(
    initial: Float[Tensor, " S"],
    transition: Float[Tensor, "S S"],
    emission: Float[Tensor, "S V"],
    by_time: Int[Tensor, "T N"],
) -> Forward:
    """Filter all sequences, in the dtype of the tables (float32 or float64).

    Inputs are validated by `DiscreteHmm`: tokens are int64 and in [0, V).
    """
    compiled = _compiled(initial.dtype)
    if compiled is None:
        return _forward_in_torch(initial, transition, emission, by_time)
    num_tokens, num_sequences = by_time.shape
    num_states, vocabulary = emission.shape
    posterior = torch.empty((num_sequences, num_states), dtype=initial.dtype)
    masses = torch.empty((num_tokens, num_sequences), dtype=initial.dtype)
    tables = [table.contiguous() for table in (initial, transition, emission)]
    work = by_time.numel() * num_states**2
    arguments = _Arguments(
        num_sequences=num_sequences,
        num_tokens=num_tokens,
        num_states=num_states,
        vocabulary=vocabulary,
        num_threads=max(1, min(torch.get_num_threads(), work // _MIN_WORK_PER_THREAD)),
        next_token=by_time.stride(0),
        next_sequence=by_time.stride(1),
        tokens=by_time.data_ptr(),
        initial=tables[0].data_ptr(),
        transition=tables[1].data_ptr(),
        emission=tables[2].data_ptr(),
        posterior=posterior.data_ptr(),
        masses=masses.data_ptr(),
    )
    if not compiled(ctypes.byref(arguments)):
        raise MemoryError(f"no memory for the tables of {num_states} states and {vocabulary} tokens")
    return Forward(posterior, masses)


def _forward_in_torch(
    initial: Float[Tensor, " S"],
    transition: Float[Tensor, "S S"],
    emission: Float[Tensor, "S V"],
    by_time: Int[Tensor, "T N"],
) -> Forward:
    """One matrix product per token for all sequences, into reused buffers."""
    num_tokens, num_sequences = by_time.shape
    masses = initial.new_empty((num_tokens, num_sequences, 1))
    posterior = initial.new_empty((num_sequences, initial.numel()))
    predicted, likelihood = initial.expand_as(posterior).clone(), torch.empty_like(posterior)
    by_token = emission.T.contiguous()
    for t in range(num_tokens):
        if t > 0:
            torch.mm(posterior, transition, out=predicted)
        torch.index_select(by_token, 0, by_time[t], out=likelihood)
        torch.mul(predicted, likelihood, out=posterior)
        torch.sum(posterior, dim=1, keepdim=True, out=masses[t])
        posterior /= masses[t]
    return Forward(posterior, masses.squeeze(-1))


def why_not_compiled() -> str | None:
    """Why torch does the work of the compiled loop, with other last digits; None if it does not. Builds the loop."""
    return load_native(_SOURCE).why_not


@cache
def _compiled(dtype: torch.dtype) -> Any:
    library = load_native(_SOURCE).library
    if library is None:
        return None
    function = getattr(library, f"hmm_filter_{str(dtype).removeprefix('torch.')}")
    function.restype = ctypes.c_bool
    return function
