"""The forward recursion of a discrete HMM over the tokens of many sequences: compiled, or in torch where it cannot be.

joint_t = (posterior_{t-1} A) * E[:, x_t], mass_t = sum joint_t, posterior_t = joint_t / mass_t.
"""

# Letters: S states, V tokens of the vocabulary, N sequences, T tokens of a sequence, K tokens whose posterior is kept.

import ctypes
from functools import cache
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lab.core.native.build import load_native

# below this many multiplications a second thread costs more than it brings
_MIN_WORK_PER_THREAD = 4_000_000


class Forward(NamedTuple):
    """What the recursion leaves.

    Attributes:
        posteriors: p(h_t | x_1 .. x_t) of all tokens, or of the last.
        masses: p(x_t | x_1 .. x_{t-1}); once one is zero, all that follow are NaN.
    """

    posteriors: Float[Tensor, "N K S"]
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
                "num_kept",
                "next_token",
                "next_sequence",
            )
        ),
        *((name, ctypes.c_void_p) for name in ("tokens", "initial", "transition", "emission", "posteriors", "masses")),
    ]


def forward(
    initial: Float[Tensor, " S"],
    transition: Float[Tensor, "S S"],
    emission: Float[Tensor, "S V"],
    by_time: Int[Tensor, "T N"],
    *,
    last_only: bool,
) -> Forward:
    """Filter all sequences, in the dtype of the tables, which is float32 or float64.

    `DiscreteHmm` checks what comes here: tokens are int64 and in [0, V).
    """
    compiled = _compiled(initial.dtype)
    if compiled is None:
        return _forward_in_torch(initial, transition, emission, by_time, last_only=last_only)
    num_tokens, num_sequences = by_time.shape
    num_states, vocabulary = emission.shape
    num_kept = 1 if last_only else num_tokens
    posteriors = torch.empty((num_sequences, num_kept, num_states), dtype=initial.dtype)
    masses = torch.empty((num_tokens, num_sequences), dtype=initial.dtype)
    tables = [table.contiguous() for table in (initial, transition, emission)]
    work = by_time.numel() * num_states**2
    arguments = _Arguments(
        num_sequences=num_sequences,
        num_tokens=num_tokens,
        num_states=num_states,
        vocabulary=vocabulary,
        num_threads=max(1, min(torch.get_num_threads(), work // _MIN_WORK_PER_THREAD)),
        num_kept=num_kept,
        next_token=by_time.stride(0),
        next_sequence=by_time.stride(1),
        tokens=by_time.data_ptr(),
        initial=tables[0].data_ptr(),
        transition=tables[1].data_ptr(),
        emission=tables[2].data_ptr(),
        posteriors=posteriors.data_ptr(),
        masses=masses.data_ptr(),
    )
    if not compiled(ctypes.byref(arguments)):
        raise MemoryError(f"no memory for the tables of {num_states} states and {vocabulary} tokens")
    return Forward(posteriors, masses)


def _forward_in_torch(
    initial: Float[Tensor, " S"],
    transition: Float[Tensor, "S S"],
    emission: Float[Tensor, "S V"],
    by_time: Int[Tensor, "T N"],
    *,
    last_only: bool,
) -> Forward:
    """One product for all sequences at each token, into buffers that are used again."""
    num_tokens, num_sequences = by_time.shape
    posteriors = initial.new_empty((1 if last_only else num_tokens, num_sequences, initial.numel()))
    masses = initial.new_empty((num_tokens, num_sequences, 1))
    predicted, likelihood = initial.expand_as(posteriors[0]).clone(), torch.empty_like(posteriors[0])
    by_token = emission.T.contiguous()
    for t in range(num_tokens):
        if t > 0:
            torch.mm(posteriors[0 if last_only else t - 1], transition, out=predicted)
        posterior = posteriors[0 if last_only else t]
        torch.index_select(by_token, 0, by_time[t], out=likelihood)
        torch.mul(predicted, likelihood, out=posterior)
        torch.sum(posterior, dim=1, keepdim=True, out=masses[t])
        posterior /= masses[t]
    return Forward(posteriors.transpose(0, 1), masses.squeeze(-1))


@cache
def _compiled(dtype: torch.dtype) -> Any:
    library = load_native("hmm_filter.cpp").library
    if library is None:
        return None
    function = getattr(library, f"hmm_filter_{str(dtype).removeprefix('torch.')}")
    function.restype = ctypes.c_bool
    return function
