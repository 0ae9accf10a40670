"""The linear-Gaussian HMM: tokens are noisy linear observations of a hidden state with linear dynamics.

z_1 ~ N(0, P_1), z_{t+1} = A z_t + e_t with e_t ~ N(0, Q), and x_t = W z_t + u_t with u_t ~ N(0, sigma_u^2 I): the data
of Luo, Wang and Huang (arXiv 2410.00699), whose first state is N(0, I). Times start at 1; a sequence of T tokens has
T + 1 states, the last of which is the next state to predict.
"""

# Letters: q state entries, p features of a token, N sequences, T tokens of a sequence, R rows.

import warnings
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float64, Real
from numpy import ndarray
from numpy.typing import ArrayLike
from scipy import linalg

from lab.core import validation
from lab.core.errors import InputError

# The rounding of a BLAS product depends on its shape. Features are computed in blocks of a fixed size, the last one
# zero-padded, so that the features of a narrower model are bit-identical to the first ones of a wider model.
_FEATURE_BLOCK = 128

# Close to 1, covariances grow as 1 / (1 - radius^2) and the stationary covariance loses precision.
_LARGE_SPECTRAL_RADIUS = 0.999


@dataclass(frozen=True)
class LinearGaussianHmm:
    """A hidden state in q dimensions, observed through p noisy features.

    Attributes:
        transition: A; with a stated start and a finite number of tokens it may have any eigenvalues.
        loading: W; a narrower model keeps its first rows.
        state_noise_covariance: Q.
        observation_noise: standard deviation of each entry of u_t; 0 is allowed.
        initial_covariance: P_1; the identity in the paper; `stationary` uses the stationary covariance.

    Raises:
        InputError: for mismatched shapes, entries that are not finite, covariances that are not symmetric positive
            semi-definite, and a negative noise level.
    """

    transition: Float64[ndarray, "q q"]
    loading: Float64[ndarray, "p q"]
    state_noise_covariance: Float64[ndarray, "q q"]
    observation_noise: float
    initial_covariance: Float64[ndarray, "q q"]

    def __post_init__(self) -> None:
        transition = validation.square_matrix("transition", self.transition)
        size = transition.shape[0]
        loading = validation.real_array("loading", self.loading, shape=(None, size))
        if loading.shape[0] == 0:
            raise InputError(
                f"loading has shape {loading.shape} but must have a row for each feature; give one or more"
            )
        checked = {
            "transition": transition,
            "loading": loading,
            "state_noise_covariance": validation.covariance_matrix(
                "state_noise_covariance", self.state_noise_covariance, size=size
            ),
            "observation_noise": validation.non_negative_number("observation_noise", self.observation_noise),
            "initial_covariance": validation.covariance_matrix(
                "initial_covariance", self.initial_covariance, size=size
            ),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    @classmethod
    def stationary(
        cls, transition: ArrayLike, loading: ArrayLike, *, state_noise_covariance: ArrayLike, observation_noise: float
    ) -> "LinearGaussianHmm":
        """The HMM whose first state has the stationary distribution, so that all tokens are identically distributed.

        Raises:
            InputError: as the constructor, and for a spectral radius of 1 or more.
        """
        matrix = stable_transition("transition", transition)
        noise = validation.covariance_matrix("state_noise_covariance", state_noise_covariance, size=matrix.shape[0])
        return cls(
            transition=matrix,
            loading=validation.real_array("loading", loading),
            state_noise_covariance=noise,
            observation_noise=observation_noise,
            initial_covariance=_lyapunov(matrix, noise),
        )

    @property
    def state_dim(self) -> int:
        """q."""
        return self.transition.shape[0]

    @property
    def num_features(self) -> int:
        """p."""
        return self.loading.shape[0]

    @cached_property
    def is_stationary(self) -> bool:
        """Whether P_1 = A P_1 A' + Q, so that all states have the same distribution."""
        following = self._following_covariance(self.initial_covariance)
        scale = np.abs(self.initial_covariance).max() + np.abs(following).max()
        return bool(np.abs(following - self.initial_covariance).max() <= validation.COVARIANCE_TOLERANCE * scale)

    def state_covariance(self, time: int) -> Float64[ndarray, "q q"]:
        """P_t = Cov(z_t), by P_{t+1} = A P_t A' + Q. Cov(z_{t+l}, z_t) is A^l P_t.

        Args:
            time: t, from 1.

        Raises:
            InputError: if `time` is below 1.
        """
        num_steps = validation.whole_number("time", time) - 1
        covariance = self.initial_covariance
        if not self.is_stationary:
            for _ in range(num_steps):
                covariance = self._following_covariance(covariance)
        return covariance

    def sample_states(
        self, num_sequences: int, length: int, rng: np.random.Generator
    ) -> Float64[ndarray, "N length q"]:
        """z_1 .. z_length of every sequence; from the same stream, a longer draw starts with the shorter one.

        Raises:
            InputError: if a count is below 1.
        """
        shape = (
            validation.whole_number("length", length),
            self.state_dim,
            validation.whole_number("num_sequences", num_sequences),
        )
        states = rng.standard_normal(shape)
        noise_root = _symmetric_root(self.state_noise_covariance)
        states[0] = _symmetric_root(self.initial_covariance) @ states[0]
        for t in range(1, shape[0]):
            states[t] = noise_root @ states[t] + self.transition @ states[t - 1]
        return states.transpose(2, 0, 1)

    def observe(self, states: Float64[ndarray, "*rows q"], rng: np.random.Generator) -> Float64[ndarray, "*rows p"]:
        """x = W z + u for any array of states; see `observe`."""
        return observe(states, self.loading, self.observation_noise, rng)

    def _following_covariance(self, covariance: Float64[ndarray, "q q"]) -> Float64[ndarray, "q q"]:
        return _symmetric(self.transition @ covariance @ self.transition.T + self.state_noise_covariance)


def observe(
    states: Float64[ndarray, "*rows q"],
    loading: Real[ndarray, "p q"],
    observation_noise: float,
    rng: np.random.Generator,
) -> Float64[ndarray, "*rows p"]:
    """x = W z + sigma u with u standard normal, for any array of states.

    The normals are drawn feature by feature: more rows of W leave the first features bit-identical, and noise levels
    share their draws. Each feature's values are contiguous in memory.

    Raises:
        InputError: if W does not match the states or the noise level is negative.
    """
    weights = validation.real_array("loading", loading, shape=(None, states.shape[-1]))
    noise_level = validation.non_negative_number("observation_noise", observation_noise)
    rows_QR = states.reshape(-1, states.shape[-1]).T
    num_features, num_rows = weights.shape[0], rows_QR.shape[1]
    features = rng.standard_normal((num_features, num_rows))
    features *= noise_level
    block = np.zeros((_FEATURE_BLOCK, weights.shape[1]))
    for start in range(0, num_features, _FEATURE_BLOCK):
        stop = min(start + _FEATURE_BLOCK, num_features)
        block[: stop - start] = weights[start:stop]
        block[stop - start :] = 0
        features[start:stop] += (block @ rows_QR)[: stop - start]
    return features.T.reshape(*states.shape[:-1], num_features)


def stable_transition(name: str, value: ArrayLike) -> Float64[ndarray, "q q"]:
    """A square matrix with a spectral radius below 1, so that a stationary distribution exists.

    Raises:
        InputError: naming the spectral radius and the fix.
    """
    matrix = validation.square_matrix(name, value)
    radius = validation.spectral_radius(matrix)
    if radius >= 1:
        raise InputError(
            f"{name} has spectral radius {radius:.6g} but must have one below 1, so that the state has a stationary "
            f"distribution; divide {name} by {radius / 0.99:.4g} or more"
        )
    if radius >= _LARGE_SPECTRAL_RADIUS:
        warnings.warn(
            f"{name} has spectral radius {radius:.6g}: the stationary covariance is large and less precise",
            stacklevel=4,
        )
    return matrix


def unit_variance_noise(transition: ArrayLike) -> Float64[ndarray, "q q"]:
    """Q = I - A A', with which the stationary covariance of the state is the identity.

    Raises:
        InputError: if A has a singular value above 1, so that no noise gives unit variance.
    """
    matrix = stable_transition("transition", transition)
    largest = float(np.linalg.norm(matrix, 2))
    if largest > 1 + validation.COVARIANCE_TOLERANCE:
        raise InputError(
            f"transition has the singular value {largest:.6g}, so that I - A A' is not a covariance and no state noise "
            "gives unit variance; give a state_noise_covariance, or a normal transition such as a scaled rotation"
        )
    return _symmetric(np.eye(matrix.shape[0]) - matrix @ matrix.T)


def _lyapunov(
    transition: Float64[ndarray, "q q"], noise_covariance: Float64[ndarray, "q q"]
) -> Float64[ndarray, "q q"]:
    return _symmetric(linalg.solve_discrete_lyapunov(transition, noise_covariance))


def _symmetric(matrix: Float64[ndarray, "q q"]) -> Float64[ndarray, "q q"]:
    return (matrix + matrix.T) / 2


def _symmetric_root(covariance: Float64[ndarray, "q q"]) -> Float64[ndarray, "q q"]:
    """The symmetric R with R R = covariance: unique, and defined for singular covariances too."""
    eigenvalues, vectors = linalg.eigh(_symmetric(covariance))
    return (vectors * np.sqrt(np.maximum(eigenvalues, 0.0))) @ vectors.T
