"""Sequences of a linear-Gaussian HMM: hidden states and all tokens, for tests that compare with simulations."""

# Letters: q state entries, p features, N sequences, T tokens of a sequence.

from typing import NamedTuple

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from lab.core.hmm.linear_gaussian import LinearGaussianHmm


class Sequences(NamedTuple):
    """States z_1 .. z_{T+1} and tokens x_1 .. x_T."""

    states: Float64[ndarray, "N T_plus_1 q"]
    tokens: Float64[ndarray, "N T p"]


def draw_sequences(hmm: LinearGaussianHmm, num_sequences: int, length: int, rng: np.random.Generator) -> Sequences:
    """All states, then the noise of all tokens, from one stream."""
    states = hmm.sample_states(num_sequences, length + 1, rng)
    return Sequences(states, hmm.observe(states[:, :-1], rng))
