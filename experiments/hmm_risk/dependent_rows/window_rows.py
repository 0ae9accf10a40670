"""Exact moments of dependent rows whose features are windows of L tokens: each token but the first is in several rows.

Row t of a sequence is a window that ends at token t + L - 1, and its target is the state after it. Given the features
of all rows, every token is known up to the entry to which the width reaches: the tokens that are in the middle of some
window up to ceil(p/L), the first ones, which are only ever the oldest, possibly up to one less.
"""

# Letters: n rows in the order (sequence, row), N sequences, T rows of a sequence, L tokens of a window, p width,
# k latent factors, m outputs, d features of the widest model.

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float64, Int64
from numpy import ndarray
from typing_extensions import override

from lab.core.errors import InputError
from lab.core.heads.factor_population import FactorPopulation
from lab.core.hmm.kalman import KalmanFilter
from lab.core.hmm.linear_gaussian import LinearGaussianHmm
from lab.experiments.hmm_risk.dependent_rows.token_rows import ExpectedTargets, TokenRows


def window_columns(num_features: int, window: int) -> tuple[Int64[ndarray, " d"], Int64[ndarray, " d"]]:
    """For every feature, how many tokens back its token is, and which of its entries it is.

    Feature i is entry i // L of the token i mod L steps back, so that the first p features see every token.
    """
    entry, lag = np.divmod(np.arange(num_features), window)
    return lag, entry


class WindowTokenRows(TokenRows):
    """A state of fixed size, seen through windows of tokens, with a stationary start; the target is the next state.

    Args:
        hmm: with the loading of one token of the widest model.
        length: T.
        window: L.
        population: second moments of one row.

    Raises:
        InputError: if the start is not stationary.
    """

    def __init__(self, hmm: LinearGaussianHmm, length: int, window: int, population: FactorPopulation) -> None:
        if not hmm.is_stationary:
            raise InputError("hmm.initial_covariance is not stationary; build hmm with LinearGaussianHmm.stationary")
        self.hmm = hmm
        self.length = length
        self.window = window
        self._population = population
        self._filters: dict[int, KalmanFilter] = {}
        self._sequence_noise: dict[int, Float64[ndarray, "T T"]] = {}

    @property
    @override
    def num_features(self) -> int:
        return self._population.num_features

    @property
    @override
    def noise_variance(self) -> float:
        return self._population.noise_variance

    @override
    def factor(self, width: int) -> Float64[ndarray, "p k"]:
        return self._population.factor[: self._check_width(width)]

    @override
    def coefficients(self, width: int) -> Float64[ndarray, "p m"]:
        # the population reduces the outputs, which have to be those of the smoother here
        return self.factor(width) @ self._population.at(width).covariance.shrunk(self._population.latent_cross)

    @override
    def noise_trace(self, width: int) -> float:
        return self._population.noise_trace(width)

    @override
    def sequence_noise(self, width: int) -> Float64[ndarray, "T T"]:
        if width not in self._sequence_noise:
            joint = self._filter(width).smoothed_covariance()[self.window :, self.window :]
            self._sequence_noise[width] = np.trace(joint, axis1=2, axis2=3)
        return self._sequence_noise[width]

    @override
    def expected_targets(self, features: Float64[ndarray, "n d"], widths: Sequence[int]) -> Iterator[ExpectedTargets]:
        for width in widths:
            seen = features[:, : self._check_width(width)]
            by_sequence = seen.reshape(-1, self.length, width)
            states = self._filter(width).smooth(self._tokens(by_sequence))[:, self.window :]
            yield ExpectedTargets(
                given_sequence=states.reshape(seen.shape[0], -1),
                given_token=seen @ self.coefficients(width),
            )

    def _tokens(self, by_sequence: Float64[ndarray, "N T p"]) -> Float64[ndarray, "N tokens entries"]:
        """The tokens behind the rows; entries that no row has are zero."""
        counts = self._num_seen(by_sequence.shape[2])
        tokens = np.zeros((by_sequence.shape[0], len(counts), max(counts)))
        for time, count in enumerate(counts):
            # the first tokens are the older ones of the first row, the others the newest of their own
            lag, row = max(self.window - 1 - time, 0), max(time - self.window + 1, 0)
            tokens[:, time, :count] = by_sequence[:, row, lag :: self.window]
        return tokens

    def _num_seen(self, width: int) -> list[int]:
        """Known entries of each token."""
        lags = [max(self.window - 1 - time, 0) for time in range(self.length + self.window - 1)]
        return [max(-((lag - width) // self.window), 0) for lag in lags]

    def _filter(self, width: int) -> KalmanFilter:
        if width not in self._filters:
            counts = self._num_seen(width)
            narrow = replace(self.hmm, loading=self.hmm.loading[: max(counts)])
            self._filters[width] = KalmanFilter(narrow, len(counts), num_seen=counts)
        return self._filters[width]
