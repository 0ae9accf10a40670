"""Exact inference in a linear-Gaussian HMM: Kalman filter and Rauch-Tung-Striebel smoother.

Covariances and gains do not depend on the tokens: they are computed once per length, and each filter step is one matrix
product for all sequences. Tokens of p features enter only through Q'x, with W = Q R and Q of at most q orthonormal
columns: the rest of a token is pure noise, whatever its width.
"""

# Letters: q state entries, p features, r = min(p, q), N sequences, T tokens of a sequence.

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from jaxtyping import Float64, Real
from numpy import ndarray
from scipy import linalg
from scipy.linalg import lapack

from lab.core import validation
from lab.core.errors import InputError
from lab.core.hmm.linear_gaussian import LinearGaussianHmm

# Without observation noise, a conditional variance below this fraction of the largest is rounding.
_ROUNDING = 1e-13


class KalmanFilter:
    """Gains and covariances of a `LinearGaussianHmm` for sequences of `length` tokens.

    With `num_seen`, only the first entries of each token are known, as many as it says; 0 for a token that is missing.

    The recursion, with S_t the covariance of Q'x_t given the past (Joseph's form, which stays symmetric and
    non-negative): K_t = P_{t|t-1} R' S_t^-1, P_{t|t} = (I - K_t R) P_{t|t-1} (I - K_t R)' + sigma_u^2 K_t K_t',
    P_{t+1|t} = A P_{t|t} A' + Q.

    Raises:
        InputError: if `length` is below 1, or without observation noise if tokens are redundant (S_t singular), or if
            `num_seen` does not fit.
    """

    def __init__(self, hmm: LinearGaussianHmm, length: int, *, num_seen: Sequence[int] | None = None) -> None:
        self.hmm = hmm
        self.length = validation.whole_number("length", length)
        self._num_seen = [hmm.num_features] * self.length if num_seen is None else list(num_seen)
        if len(self._num_seen) != self.length or not all(0 <= count <= hmm.num_features for count in self._num_seen):
            raise InputError(
                f"num_seen={self._num_seen} must hold {self.length} numbers from 0 to {hmm.num_features}; give one for "
                "each token"
            )
        # no pivoting: it would only reorder the state, and signs and order of Q cancel in every result
        self._reduced = {count: np.linalg.qr(hmm.loading[:count]) for count in set(self._num_seen)}
        size = hmm.state_dim
        self._predicted = np.empty((self.length + 1, size, size))
        self._filtered = np.empty((self.length, size, size))
        self._gains: list[Float64[ndarray, "q r"]] = []
        self._run_covariances()

    def filtered_covariance(self, time: int) -> Float64[ndarray, "q q"]:
        """Cov(z_t | x_1 .. x_t) for t = 1 .. T.

        Raises:
            InputError: if `time` is out of range.
        """
        if validation.whole_number("time", time) > self.length:
            raise InputError(f"time={time} must be at most {self.length}; build the filter for more tokens")
        return self._filtered[time - 1]

    def last_state(self, tokens: Real[ndarray, "N T p"]) -> Float64[ndarray, "N q"]:
        """E[z_T | x_1 .. x_T], the representation of the whole context by an ideal model.

        Raises:
            InputError: if the tokens have the wrong shape or are not finite.
        """
        return self._filter_means(tokens)[-1]

    def smooth(self, tokens: Real[ndarray, "N T p"]) -> Float64[ndarray, "N T_plus_1 q"]:
        """E[z_t | x_1 .. x_T] for t = 1 .. T + 1, the next state included.

        Raises:
            InputError: if the tokens have the wrong shape or are not finite.
        """
        means = self._filter_means(tokens)
        smoothed = np.empty((self.length + 1, *means.shape[1:]))
        smoothed[-1] = means[-1] @ self.hmm.transition.T
        for t in reversed(range(self.length)):
            predicted = means[t] @ self.hmm.transition.T
            smoothed[t] = means[t] + (smoothed[t + 1] - predicted) @ self._smoother_gains[t].T
        return smoothed.transpose(1, 0, 2)

    def smoothed_covariance(self) -> Float64[ndarray, "T_plus_1 T_plus_1 q q"]:
        """Cov(z_t, z_s | x_1 .. x_T) for all t, s = 1 .. T + 1; the same for every sequence.

        With smoother gains J_t: Cov(z_t, z_s) = J_t Cov(z_{t+1}, z_s) for t < s.
        """
        size = self.hmm.state_dim
        joint = np.empty((self.length + 1, self.length + 1, size, size))
        joint[-1, -1] = self._predicted[-1]
        for t in reversed(range(self.length)):
            gain = self._smoother_gains[t]
            joint[t, t] = self._filtered[t] + gain @ (joint[t + 1, t + 1] - self._predicted[t + 1]) @ gain.T
            joint[t, t + 1 :] = gain @ joint[t + 1, t + 1 :]
            joint[t + 1 :, t] = joint[t, t + 1 :].transpose(0, 2, 1)
        return joint

    @cached_property
    def _smoother_gains(self) -> Float64[ndarray, "T q q"]:
        # pseudo-inverse: without state noise the predicted covariance may be singular
        return np.stack(
            [
                self._filtered[t] @ self.hmm.transition.T @ linalg.pinvh(self._predicted[t + 1])
                for t in range(self.length)
            ]
        )

    def _run_covariances(self) -> None:
        noise = self.hmm.observation_noise**2
        identity = np.eye(self.hmm.state_dim)
        self._predicted[0] = self.hmm.initial_covariance
        largest = 0.0
        for t, count in enumerate(self._num_seen):
            loading = self._reduced[count].R
            if count == 0:
                self._gains.append(np.zeros((identity.shape[0], 0)))
                self._filtered[t] = self._predicted[t]
                self._predict(t)
                continue
            projected = loading @ self._predicted[t]
            innovation = projected @ loading.T
            innovation[np.diag_indices_from(innovation)] += noise
            factor, info = lapack.dpotrf(innovation, lower=1)
            # without observation noise, a variance this small is zero up to rounding
            largest = max(largest, float(innovation.diagonal().max()))
            rounding = 0.0 if noise else _ROUNDING * largest
            if info != 0 or not np.square(factor.diagonal()).min() > rounding:
                raise InputError(
                    f"observation_noise={self.hmm.observation_noise:g} leaves the covariance of token {t + 1} given "
                    "the earlier ones singular; give a positive observation_noise"
                )
            gain = linalg.cho_solve((factor, True), projected).T
            contraction = identity - gain @ loading
            self._gains.append(gain)
            self._filtered[t] = contraction @ self._predicted[t] @ contraction.T + noise * (gain @ gain.T)
            self._predict(t)

    def _predict(self, t: int) -> None:
        following = self.hmm.transition @ self._filtered[t] @ self.hmm.transition.T + self.hmm.state_noise_covariance
        self._predicted[t + 1] = (following + following.T) / 2

    def _filter_means(self, tokens: Real[ndarray, "N T p"]) -> Float64[ndarray, "T N q"]:
        """E[z_t | x_1 .. x_t], time first."""
        checked = validation.real_array("tokens", tokens, shape=(None, self.length, self.hmm.num_features))
        observed = [checked[:, t, :count] @ self._reduced[count].Q for t, count in enumerate(self._num_seen)]
        # z_{t|t} = [(I - K R) A, K] (z_{t-1|t-1}, Q'x_t): one product per step
        size = self.hmm.state_dim
        means = np.empty((self.length, checked.shape[0], size))
        means[0] = observed[0] @ self._gains[0].T
        for t in range(1, self.length):
            carry = self.hmm.transition - self._gains[t] @ (self._reduced[self._num_seen[t]].R @ self.hmm.transition)
            means[t] = np.hstack([means[t - 1], observed[t]]) @ np.hstack([carry, self._gains[t]]).T
        return means
