"""Random HMMs: transition matrices of given spectral radius, loadings, and tables of discrete HMMs.

Plain numpy, so that processes that only draw linear-Gaussian problems do not import torch.
"""

# Letters: q state entries, p features, S hidden states, V tokens, M permutations.

from typing import NamedTuple

import numpy as np
import scipy
from jaxtyping import Float64
from numpy import ndarray

from lab.core import validation
from lab.core.errors import InputError

_GOLDEN_RATIO = (1 + 5**0.5) / 2


class DiscreteTables(NamedTuple):
    """The tables of a discrete HMM, in the order of `DiscreteHmm`'s arguments.

    Attributes:
        initial: p(h_1).
        transition: p(h_{t+1} | h_t), one row for each h_t.
        emission: p(x_t | h_t), one row for each h_t.
    """

    initial: Float64[ndarray, " S"]
    transition: Float64[ndarray, "S S"]
    emission: Float64[ndarray, "S V"]


def orthogonal_transition(state_dim: int, spectral_radius: float, rng: np.random.Generator) -> Float64[ndarray, "q q"]:
    """rho O with O uniform over all orthogonal matrices: all directions decay at the same rate, and rotate.

    Raises:
        InputError: for a dimension below 1 or a radius outside [0, 1).
    """
    return validation.number_in_unit_interval("spectral_radius", spectral_radius) * _random_rotation(state_dim, rng)


def symmetric_transition(
    state_dim: int, spectral_radius: float, rng: np.random.Generator, *, lowest_eigenvalue: float = 0.0
) -> Float64[ndarray, "q q"]:
    """O diag(a) O' with a evenly spaced from `lowest_eigenvalue` to the spectral radius, both included: slow modes.

    With one dimension, the eigenvalue is the spectral radius.

    Raises:
        InputError: for a dimension below 1, a radius outside [0, 1), or a lowest eigenvalue outside [-radius, radius].
    """
    radius = validation.number_in_unit_interval("spectral_radius", spectral_radius)
    lowest = _lowest_eigenvalue(lowest_eigenvalue, radius)
    rotation = _random_rotation(state_dim, rng)
    matrix = (rotation * np.linspace(radius, lowest, state_dim)) @ rotation.T
    return (matrix + matrix.T) / 2


def general_transition(state_dim: int, spectral_radius: float, rng: np.random.Generator) -> Float64[ndarray, "q q"]:
    """A Gaussian matrix, scaled to the spectral radius: complex, non-orthogonal modes of all moduli.

    Raises:
        InputError: for a dimension below 1 or a radius outside [0, 1).
    """
    radius = validation.number_in_unit_interval("spectral_radius", spectral_radius)
    size = validation.whole_number("state_dim", state_dim)
    matrix = rng.standard_normal((size, size))
    return matrix * (radius / validation.spectral_radius(matrix))


def gaussian_loading(num_features: int, state_dim: int, rng: np.random.Generator) -> Float64[ndarray, "p q"]:
    """W with independent entries N(0, 1/q): a state of unit variance gives features of unit variance.

    Drawn row by row, so that a wider model extends a narrower one.

    Raises:
        InputError: for a size below 1.
    """
    size = validation.whole_number("state_dim", state_dim)
    return rng.standard_normal((validation.whole_number("num_features", num_features), size)) / np.sqrt(size)


def dirichlet_tables(
    num_states: int,
    num_tokens: int,
    rng: np.random.Generator,
    *,
    transition_concentration: float,
    emission_concentration: float,
) -> DiscreteTables:
    """Rows drawn from symmetric Dirichlet distributions; the initial one is drawn like a transition row.

    Args:
        num_states: S.
        num_tokens: V.
        rng: source of randomness.
        transition_concentration: Dirichlet parameter; below 1, a few successors have most of the mass.
        emission_concentration: the same for the tokens of a state.

    Raises:
        InputError: for a size below 1 or a concentration that is not positive.
    """
    states = validation.whole_number("num_states", num_states)
    tokens = validation.whole_number("num_tokens", num_tokens)
    transition_alpha = validation.positive_number("transition_concentration", transition_concentration)
    emission_alpha = validation.positive_number("emission_concentration", emission_concentration)
    return DiscreteTables(
        initial=rng.dirichlet(np.full(states, transition_alpha)),
        transition=rng.dirichlet(np.full(states, transition_alpha), size=states),
        emission=rng.dirichlet(np.full(tokens, emission_alpha), size=states),
    )


def permutation_tables(
    num_states: int,
    num_tokens: int,
    rng: np.random.Generator,
    *,
    start_temperature: float,
    transition_temperature: float,
    emission_temperature: float,
) -> DiscreteTables:
    """The generator of Wei, Xie and Ma (arXiv 2106.09226), as in their published code.

    With U uniform on (0, 1): p(h_1) = softmax((U - 1/2) / start), the transition is a mixture of S random permutations
    with weights softmax((U - 1/2) / transition), and emission rows are softmax((U - 1/2) / emission). The transition is
    doubly stochastic.

    Raises:
        InputError: for a size below 1 or a temperature that is not positive.
    """
    states = validation.whole_number("num_states", num_states)
    tokens = validation.whole_number("num_tokens", num_tokens)
    start = validation.positive_number("start_temperature", start_temperature)
    transition = validation.positive_number("transition_temperature", transition_temperature)
    emission = validation.positive_number("emission_temperature", emission_temperature)
    initial = scipy.special.softmax((rng.random(states) - 0.5) / start)
    weights = scipy.special.softmax((rng.random(states) - 0.5) / transition)
    mixture = np.zeros((states, states))
    for weight in weights:
        mixture[np.arange(states), rng.permutation(states)] += weight
    return DiscreteTables(
        initial=initial,
        transition=mixture,
        emission=scipy.special.softmax((rng.random((states, tokens)) - 0.5) / emission, axis=1),
    )


def _random_rotation(state_dim: int, rng: np.random.Generator) -> Float64[ndarray, "q q"]:
    size = validation.whole_number("state_dim", state_dim)
    rotation, triangle = np.linalg.qr(rng.standard_normal((size, size)))
    # without fixing the signs of R's diagonal, O would not be uniform but depend on LAPACK (Mezzadri, math-ph/0609050)
    return rotation * np.where(np.diag(triangle) < 0, -1.0, 1.0)


def _lowest_eigenvalue(value: float, radius: float) -> float:
    lowest = validation.real_number("lowest_eigenvalue", value)
    if not -radius <= lowest <= radius:
        raise InputError(
            f"lowest_eigenvalue={lowest:g} must lie in [-{radius:g}, {radius:g}]; give a number in between"
        )
    return lowest


def golden_points(num_points: int) -> Float64[ndarray, " k"]:
    """Points that cover (0, 1) evenly for any count: the Weyl sequence of the golden ratio."""
    return np.mod(np.arange(1, num_points + 1) / _GOLDEN_RATIO, 1.0)
