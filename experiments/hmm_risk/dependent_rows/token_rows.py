"""Exact moments of dependent rows: every token of a sequence gives a row (x_t, y_t) with the next state or token.

Sequences are independent; rows of one sequence are dependent. Given all tokens x_1 .. x_T of a sequence, its targets
are Gaussian. Their means come from the smoother, and differ from the best linear prediction B'x_t by the information in
the other tokens; their covariance is the same for every sequence. A width p keeps the first p features, and both
moments are conditional on these p features.
"""

# Letters: n rows in the order (sequence, token), N sequences, T tokens, d features of the widest model, p width,
# q state entries, m outputs, k latent factors.

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64
from numpy import ndarray
from typing_extensions import override

from lab.core import validation
from lab.core.errors import InputError
from lab.core.heads.factor_covariance import FactorCovariance
from lab.core.hmm.kalman import KalmanFilter
from lab.core.hmm.linear_gaussian import LinearGaussianHmm


class ExpectedTargets(NamedTuple):
    """Conditional means of the targets of training rows.

    Attributes:
        given_sequence: E[y_t | x_1 .. x_T].
        given_token: E[y_t | x_t] = B_p'x_t.
    """

    given_sequence: Float64[ndarray, "n m"]
    given_token: Float64[ndarray, "n m"]


class TokenRows(ABC):
    """The distribution of all rows of a sequence, at every width up to `num_features`.

    Attributes:
        length: T.
    """

    length: int

    @property
    def has_theory(self) -> bool:
        """Whether there is an asymptotic theory of these rows (`dependent_rows.asymptotic`)."""
        return True

    @property
    @abstractmethod
    def noise_variance(self) -> float:
        """s in Sigma_p = F_p F_p' + s I."""

    @property
    @abstractmethod
    def num_features(self) -> int:
        """The widest representation."""

    @abstractmethod
    def factor(self, width: int) -> Float64[ndarray, "p k"]:
        """F_p in Sigma_p = F_p F_p' + s I; without columns if features are uncorrelated with equal variance."""

    @abstractmethod
    def coefficients(self, width: int) -> Float64[ndarray, "p m"]:
        """B_p, the best linear head on one token."""

    @abstractmethod
    def noise_trace(self, width: int) -> float:
        """tr Sigma_e,p: the risk of B_p."""

    @abstractmethod
    def sequence_noise(self, width: int) -> Float64[ndarray, "T T"]:
        """Omega_ts = tr Cov(y_t, y_s | x_1 .. x_T), summed over outputs."""

    @abstractmethod
    def expected_targets(self, features: Float64[ndarray, "n d"], widths: Sequence[int]) -> Iterator[ExpectedTargets]:
        """The means of the targets of every row, width by width."""

    def _check_width(self, width: int) -> int:
        if not 1 <= width <= self.num_features:
            raise InputError(f"width={width} must be from 1 to {self.num_features}, the number of features")
        return width


def mean_state_covariance(hmm: LinearGaussianHmm, length: int) -> Float64[ndarray, "q q"]:
    """The mean of Cov(z_t) over t = 1 .. T."""
    if hmm.is_stationary:
        return hmm.initial_covariance
    covariance, total = hmm.initial_covariance, np.zeros_like(hmm.initial_covariance)
    for _ in range(length):
        total = total + covariance
        covariance = hmm.transition @ covariance @ hmm.transition.T + hmm.state_noise_covariance
    return total / length


class HmmTokenRows(TokenRows):
    """A state of fixed size: x_t = W_p z_t + u_t and y_t = z_{t+1} or x_{t+1}.

    With a start that is not stationary, tokens have different distributions. A new row is then one of them, each with
    the same probability, as the training rows are: second moments and B are those of the mixture.

    The next token is as wide as the model. All but a sequence's last one are features of its next rows, so that given
    the features only the last target is uncertain.

    Args:
        hmm: with the loading of the widest model.
        length: T.
        predicts_token: whether y_t is x_{t+1}.

    Raises:
        InputError: if there is no observation noise, or an argument is invalid.
    """

    def __init__(self, hmm: LinearGaussianHmm, length: int, *, predicts_token: bool = False) -> None:
        if hmm.observation_noise == 0:
            raise InputError("hmm.observation_noise=0 leaves redundant features; give a positive standard deviation")
        self.hmm = hmm
        self.length = validation.whole_number("length", length)
        self.predicts_token = predicts_token
        self._filters: dict[int, KalmanFilter] = {}
        self._sequence_noise: dict[int, Float64[ndarray, "T T"]] = {}

    @property
    @override
    def num_features(self) -> int:
        return self.hmm.num_features

    @property
    @override
    def has_theory(self) -> bool:
        return self.hmm.is_stationary

    @property
    @override
    def noise_variance(self) -> float:
        return self.hmm.observation_noise**2

    @cached_property
    def lag_covariances(self) -> Float64[ndarray, "T_plus_1 q q"]:
        """Cov(z_{t+l}, z_t) = A^l P for l = 0 .. T.

        Raises:
            InputError: if the start is not stationary.
        """
        if not self.hmm.is_stationary:
            raise InputError(
                "hmm.initial_covariance is not stationary, so rows of a sequence differ in distribution; build it with "
                "LinearGaussianHmm.stationary"
            )
        covariances = np.empty((self.length + 1, self.hmm.state_dim, self.hmm.state_dim))
        covariances[0] = self.hmm.initial_covariance
        for lag in range(self.length):
            covariances[lag + 1] = self.hmm.transition @ covariances[lag]
        return covariances

    @override
    def factor(self, width: int) -> Float64[ndarray, "p k"]:
        return self.hmm.loading[: self._check_width(width)] @ self._state_root

    @override
    def coefficients(self, width: int) -> Float64[ndarray, "p m"]:
        factor = self.factor(width)
        head = factor @ FactorCovariance(factor, self.noise_variance).shrunk(self._state_root.T @ self.hmm.transition.T)
        return head @ self.hmm.loading[:width].T if self.predicts_token else head

    @override
    def noise_trace(self, width: int) -> float:
        loading, transition = self.hmm.loading[: self._check_width(width)], self.hmm.transition
        cross = loading @ self._state_covariance @ transition.T
        following = transition @ self._state_covariance @ transition.T + self.hmm.state_noise_covariance
        if self.predicts_token:
            cross = cross @ loading.T
            total = width * self.noise_variance + float(np.sum((loading @ following) * loading))
        else:
            total = float(np.trace(following))
        return total - float(np.sum(cross * self.coefficients(width)))

    @override
    def sequence_noise(self, width: int) -> Float64[ndarray, "T T"]:
        if width not in self._sequence_noise:
            joint = self._filter(width).smoothed_covariance()[1:, 1:]
            if self.predicts_token:
                loading, noise = self.hmm.loading[:width], np.zeros((self.length, self.length))
                noise[-1, -1] = np.sum((loading @ joint[-1, -1]) * loading) + width * self.noise_variance
            else:
                noise = np.trace(joint, axis1=2, axis2=3)
            self._sequence_noise[width] = noise
        return self._sequence_noise[width]

    @override
    def expected_targets(self, features: Float64[ndarray, "n d"], widths: Sequence[int]) -> Iterator[ExpectedTargets]:
        for width in widths:
            seen = features[:, : self._check_width(width)]
            by_sequence = seen.reshape(-1, self.length, width)
            states = self._filter(width).smooth(by_sequence)[:, 1:]
            if self.predicts_token:
                last = states[:, -1:] @ self.hmm.loading[:width].T
                states = np.concatenate([by_sequence[:, 1:], last], axis=1)
            yield ExpectedTargets(
                given_sequence=states.reshape(seen.shape[0], -1),
                given_token=seen @ self.coefficients(width),
            )

    @cached_property
    def _state_covariance(self) -> Float64[ndarray, "q q"]:
        """Covariance of z_t at a time drawn uniformly from 1 .. T."""
        return mean_state_covariance(self.hmm, self.length)

    @cached_property
    def _state_root(self) -> Float64[ndarray, "q q"]:
        values, vectors = np.linalg.eigh(self._state_covariance)
        return vectors * np.sqrt(np.maximum(values, 0.0))

    def _filter(self, width: int) -> KalmanFilter:
        if width not in self._filters:
            narrow = replace(self.hmm, loading=self.hmm.loading[: self._check_width(width)])
            self._filters[width] = KalmanFilter(narrow, self.length)
        return self._filters[width]
