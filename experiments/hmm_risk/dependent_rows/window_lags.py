"""Lag covariances of rows whose features are windows of tokens, as dense matrices.

A token is in several windows, with the same noise in each, so that noise is correlated between rows and between
features: no direction of the features is free of it, and the theory takes T matrices of size p x p.
"""

# Letters: T rows of a sequence and lags, L = 2 T - 1 lags of both signs from -(T - 1), p width, q state entries.

import numpy as np
from jaxtyping import Float64
from numpy import ndarray
from scipy import linalg
from typing_extensions import override

from lab.experiments.hmm_risk.dependent_rows.lags import Lags, Point, folded
from lab.experiments.hmm_risk.dependent_rows.window_rows import WindowTokenRows, window_columns


class WindowLags(Lags):
    """C_l = E[x_{t+l} x_t'] of windows, and E[x_{t+l} y_t'] with the state after the window."""

    def __init__(self, rows: WindowTokenRows, width: int) -> None:
        self.length = rows.length
        hmm, window = rows.hmm, rows.window
        lags, entries = window_columns(width, window)
        loading = hmm.loading[entries]
        # Cov(z_{t+k}, z_t) for k = -reach .. reach
        reach = self.length + window
        ahead = [hmm.initial_covariance]
        for _ in range(reach):
            ahead.append(hmm.transition @ ahead[-1])
        states = np.stack([*(matrix.T for matrix in ahead[:0:-1]), *ahead])
        middle = self.length - 1
        self._signed = np.empty((2 * self.length - 1, width, width))
        self._crossed = np.empty((2 * self.length - 1, width, hmm.state_dim))
        same_entry = entries[:, None] == entries
        back = lags[:, None] - lags
        for place in range(2 * self.length - 1):
            lag = place - middle
            for older in range(window):
                for newer in range(window):
                    rows_of, columns_of = slice(older, None, window), slice(newer, None, window)
                    between = states[reach + lag - older + newer]
                    self._signed[place, rows_of, columns_of] = loading[rows_of] @ between @ loading[columns_of].T
                rows_of = slice(older, None, window)
                self._crossed[place, rows_of] = loading[rows_of] @ states[reach + lag - older - 1]
            # the same token, seen from two rows
            self._signed[place] += rows.noise_variance * (same_entry & (back == lag))
        self._covariances = (self._signed[middle:] + self._signed[middle:].swapaxes(1, 2)) / 2
        self._targets = np.trace(states[reach : reach + self.length], axis1=1, axis2=2)

    @override
    def resolvent(self, weights: Float64[ndarray, " T"], shift: float) -> Float64[ndarray, "p p"]:
        matrix = np.tensordot(weights, self._covariances, axes=1)
        matrix[np.diag_indices_from(matrix)] += shift
        inverse = linalg.inv(matrix)
        return (inverse + inverse.T) / 2

    @override
    def traces(self, resolvent: Float64[ndarray, "p p"]) -> Float64[ndarray, " T"]:
        return np.tensordot(self._covariances, resolvent, axes=2)

    @override
    def products(self, resolvent: Float64[ndarray, "p p"]) -> Float64[ndarray, "T T"]:
        root = linalg.cholesky(resolvent, lower=True)
        seen = (root.T @ self._covariances @ root).reshape(self.length, -1)
        return seen @ seen.T

    @override
    def mean_head(self, point: Point) -> tuple[float, Float64[ndarray, " T"]]:
        head = self._head(point)
        error = head - linalg.solve(self._covariances[0], self._crossed[self.length - 1], assume_a="pos")
        residuals = self._targets - np.tensordot(folded(self._crossed), head, axes=2)
        residuals += np.tensordot(self._covariances, head @ head.T, axes=2)
        return float(np.sum(error * (self._covariances[0] @ error))), residuals

    @override
    def residual_pairs(self, point: Point, pairs: Float64[ndarray, "L L"]) -> Float64[ndarray, "p p"]:
        residual = self._crossed - self._signed @ self._head(point)
        block = np.tensordot(residual, np.tensordot(pairs, residual, axes=1), axes=((0, 2), (0, 2)))
        return (block + block.T) / 2

    @override
    def deviation_pairs(
        self, deviation: Float64[ndarray, "p p"], pairs: Float64[ndarray, "L L"]
    ) -> Float64[ndarray, "p p"]:
        moved = self._signed @ deviation
        block = np.tensordot(moved, np.tensordot(pairs, self._signed, axes=1), axes=((0, 2), (0, 2)))
        return (block + block.T) / 2

    @override
    def weighted(self, weights: Float64[ndarray, " T"]) -> Float64[ndarray, "p p"]:
        return np.tensordot(weights, self._covariances, axes=1)

    @override
    def around(self, resolvent: Float64[ndarray, "p p"], middle: Float64[ndarray, "p p"]) -> Float64[ndarray, "p p"]:
        return resolvent @ middle @ resolvent

    def _head(self, point: Point) -> Float64[ndarray, "p q"]:
        """B̄."""
        return point.resolvent @ np.tensordot(point.weights / 2, folded(self._crossed), axes=1)
