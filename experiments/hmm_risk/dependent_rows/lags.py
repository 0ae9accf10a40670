"""Lag covariances of the rows of a sequence, C_l = E[x_{t+l} x_t'], and the functions of them that the theory needs.

A state of fixed size reaches r directions of the features; the other p - r are noise, and alike. Modes and planes are
independent of each other, so that every quantity is one number for each.
"""

# Letters: T tokens and lags, L = 2 T - 1 lags of both signs from -(T - 1), r signal directions of the features,
# m outputs, c components (modes or planes).

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Num
from numpy import ndarray
from scipy import linalg
from typing_extensions import override

from lab.experiments.hmm_risk.dependent_rows.mode_rows import ModeTokenRows
from lab.experiments.hmm_risk.dependent_rows.token_rows import HmmTokenRows


@dataclass(frozen=True, slots=True)
class Point:
    """A point of the iteration for the equations of `dependent_rows.asymptotic`.

    Attributes:
        kernel: H.
        weights: (1/T) Σ_{|t-s| = l} H_ts.
        resolvent: Q, in the representation of the lag covariances.
        products: Psi.
        jacobian: J.
    """

    kernel: Float64[ndarray, "T T"]
    weights: Float64[ndarray, " T"]
    resolvent: Num[ndarray, "..."]
    products: Float64[ndarray, "T T"]
    jacobian: Float64[ndarray, "T T"]


class Lags(ABC):
    """The lag covariances of the features, and the functions of them that the theory needs."""

    length: int

    @abstractmethod
    def resolvent(self, weights: Float64[ndarray, " T"], shift: float) -> Num[ndarray, "..."]:
        """Q = (shift I + Σ_l weights_l C_l)^-1."""

    @abstractmethod
    def traces(self, resolvent: Num[ndarray, "..."]) -> Float64[ndarray, " T"]:
        """tr C_l Q."""

    @abstractmethod
    def products(self, resolvent: Num[ndarray, "..."]) -> Float64[ndarray, "T T"]:
        """tr C_k Q C_l Q."""

    @abstractmethod
    def mean_head(self, point: Point) -> tuple[float, Float64[ndarray, " T"]]:
        """tr (B̄ - B)' Sigma (B̄ - B), and the residuals r_l."""

    @abstractmethod
    def residual_pairs(self, point: Point, pairs: Float64[ndarray, "L L"]) -> Num[ndarray, "..."]:
        """Σ_ab pairs_ab S_a S_b', symmetric, with S_l = E[x_{t+l} (y_t - B̄'x_t)']."""

    @abstractmethod
    def deviation_pairs(self, deviation: Num[ndarray, "..."], pairs: Float64[ndarray, "L L"]) -> Num[ndarray, "..."]:
        """Σ_ab pairs_ab C_a M C_b', symmetric, for M = `deviation`."""

    @abstractmethod
    def weighted(self, weights: Float64[ndarray, " T"]) -> Num[ndarray, "..."]:
        """Σ_l weights_l C_l."""

    @abstractmethod
    def around(self, resolvent: Num[ndarray, "..."], middle: Num[ndarray, "..."]) -> Num[ndarray, "..."]:
        """Q `middle` Q."""


class StateLags(Lags):
    """C_l = W A^l P W' (+ s I at l = 0), in the r directions that W reaches; the other p - r are pure noise.

    A matrix is the r x r block, flattened, followed by the entry shared by all other directions.
    """

    def __init__(self, rows: HmmTokenRows, width: int) -> None:
        self.length = rows.length
        _, reduced = np.linalg.qr(rows.hmm.loading[:width])
        self._size = reduced.shape[0]
        self._num_free = width - self._size
        self._noise = rows.noise_variance
        # Cov(z_{t+l}, z_t) for l = -T .. T
        states = rows.lag_covariances
        both = np.concatenate([states[:0:-1].swapaxes(1, 2), states])
        self._signed = reduced @ both[1:-1] @ reduced.T
        self._signed[self.length - 1] += self._noise * np.eye(self._size)
        # E[x_{t+l} y_t'] is Cov(x_{t+l}, z_{t+1}), or with x_{t+1} for y_t
        self._crossed = reduced @ both[:-2]
        self._targets = np.trace(states[:-1], axis1=1, axis2=2)
        # what the other directions share: the noise of the next token is that of the next row's features
        self._free_crossed, self._free_targets = np.zeros(2 * self.length - 1), np.zeros(self.length)
        if rows.predicts_token:
            self._crossed = self._crossed @ reduced.T
            self._targets = np.trace(reduced @ states[:-1] @ reduced.T, axis1=1, axis2=2)
            self._targets[0] += self._noise * self._size
            self._free_targets[0] = self._noise
            if self.length > 1:
                self._crossed[self.length] += self._noise * np.eye(self._size)
                self._free_crossed[self.length] = self._noise
        middle = self.length - 1
        self._covariances = (self._signed[middle:] + self._signed[middle:].swapaxes(1, 2)) / 2

    @override
    def resolvent(self, weights: Float64[ndarray, " T"], shift: float) -> Float64[ndarray, " rr_plus_1"]:
        matrix = np.tensordot(weights, self._covariances, axes=1)
        matrix[np.diag_indices(self._size)] += shift
        inverse = linalg.inv(matrix)
        return np.append((inverse + inverse.T) / 2, 1 / (shift + weights[0] * self._noise))

    @override
    def traces(self, resolvent: Float64[ndarray, " rr_plus_1"]) -> Float64[ndarray, " T"]:
        traces = self._covariances.reshape(self.length, -1) @ resolvent[:-1]
        traces[0] += self._num_free * self._noise * resolvent[-1]
        return traces

    @override
    def products(self, resolvent: Float64[ndarray, " rr_plus_1"]) -> Float64[ndarray, "T T"]:
        root = linalg.cholesky(self._block(resolvent), lower=True)
        seen = (root.T @ self._covariances @ root).reshape(self.length, -1)
        products = seen @ seen.T
        products[0, 0] += self._num_free * (self._noise * resolvent[-1]) ** 2
        return products

    @override
    def mean_head(self, point: Point) -> tuple[float, Float64[ndarray, " T"]]:
        head, free = self._head(point)
        error = head - linalg.solve(self._covariances[0], self._crossed[self.length - 1], assume_a="pos")
        both_signs, free_both_signs = folded(self._crossed), folded(self._free_crossed)
        residuals = self._targets - np.tensordot(both_signs, head, axes=2)
        residuals += np.tensordot(self._covariances, head @ head.T, axes=2)
        residuals += self._num_free * (self._free_targets - free_both_signs * free)
        residuals[0] += self._num_free * self._noise * free**2
        mean_error = float(np.sum(error * (self._covariances[0] @ error))) + self._num_free * self._noise * free**2
        return mean_error, residuals

    @override
    def residual_pairs(self, point: Point, pairs: Float64[ndarray, "L L"]) -> Float64[ndarray, " rr_plus_1"]:
        head, free = self._head(point)
        residual, free_residual = self._crossed - self._signed @ head, self._free_crossed.copy()
        free_residual[self.length - 1] -= self._noise * free
        block = np.tensordot(residual, np.tensordot(pairs, residual, axes=1), axes=((0, 2), (0, 2)))
        return np.append((block + block.T) / 2, free_residual @ pairs @ free_residual)

    @override
    def deviation_pairs(
        self, deviation: Float64[ndarray, " rr_plus_1"], pairs: Float64[ndarray, "L L"]
    ) -> Float64[ndarray, " rr_plus_1"]:
        moved = self._signed @ self._block(deviation)
        block = np.tensordot(moved, np.tensordot(pairs, self._signed, axes=1), axes=((0, 2), (0, 2)))
        middle = self.length - 1
        return np.append((block + block.T) / 2, pairs[middle, middle] * self._noise**2 * deviation[-1])

    @override
    def weighted(self, weights: Float64[ndarray, " T"]) -> Float64[ndarray, " rr_plus_1"]:
        return np.append(np.tensordot(weights, self._covariances, axes=1), weights[0] * self._noise)

    @override
    def around(
        self, resolvent: Float64[ndarray, " rr_plus_1"], middle: Float64[ndarray, " rr_plus_1"]
    ) -> Float64[ndarray, " rr_plus_1"]:
        block = self._block(resolvent)
        return np.append(block @ self._block(middle) @ block, resolvent[-1] ** 2 * middle[-1])

    def _head(self, point: Point) -> tuple[Float64[ndarray, "r m"], float]:
        """B̄, and its entry for each of the other directions."""
        # a weight covers both signs of a lag, except lag 0
        halves = point.weights / 2
        head = self._block(point.resolvent) @ np.tensordot(halves, folded(self._crossed), axes=1)
        return head, float(point.resolvent[-1] * (halves @ folded(self._free_crossed)))

    def _block(self, resolvent: Float64[ndarray, " rr_plus_1"]) -> Float64[ndarray, "r r"]:
        return resolvent[:-1].reshape(self._size, self._size)


class ModeLags(Lags):
    """C_l is diagonal, with one number per mode or plane, so a resolvent is a vector at every width."""

    def __init__(self, rows: ModeTokenRows, width: int) -> None:
        self.length = rows.length
        self._multiplicity = rows.modes_per_component
        self._states = rows.autocovariance[: rows.num_components(width)]
        self._covariances = self._states[:, :-1].real.copy()
        self._covariances[:, 0] = rows.noise_variance
        both = np.hstack([self._states[:, :0:-1].conj(), self._states])
        self._signed = both[:, 1:-1].copy()
        self._signed[:, self.length - 1] = rows.noise_variance
        # E[x_{t+l} conj(z_{t+1})] for l = -(T-1) .. T-1
        self._crossed = both[:, :-2]

    @override
    def resolvent(self, weights: Float64[ndarray, " T"], shift: float) -> Float64[ndarray, " c"]:
        return 1 / (shift + self._covariances @ weights)

    @override
    def traces(self, resolvent: Float64[ndarray, " c"]) -> Float64[ndarray, " T"]:
        return self._multiplicity * (resolvent @ self._covariances)

    @override
    def products(self, resolvent: Float64[ndarray, " c"]) -> Float64[ndarray, "T T"]:
        seen = resolvent[:, None] * self._covariances
        return self._multiplicity * (seen.T @ seen)

    @override
    def mean_head(self, point: Point) -> tuple[float, Float64[ndarray, " T"]]:
        # of conj(x_t) y_{t+l}: the conjugates of the rows' own order
        head, crossed = self._head(point), folded(self._crossed.conj().T).T
        error = head - self._states[:, 1] / self._covariances[:, 0]
        mean_error = self._multiplicity * float(np.abs(error) ** 2 @ self._covariances[:, 0])
        residuals = self._states[:, :-1].real + np.abs(head[:, None]) ** 2 * self._covariances
        residuals -= (head.conj()[:, None] * crossed).real
        return mean_error, self._multiplicity * residuals.sum(axis=0)

    @override
    def residual_pairs(self, point: Point, pairs: Float64[ndarray, "L L"]) -> Float64[ndarray, " c"]:
        residual = self._crossed - self._signed * self._head(point).conj()[:, None]
        return np.sum((residual @ pairs) * residual.conj(), axis=1).real

    @override
    def deviation_pairs(
        self, deviation: Float64[ndarray, " c"], pairs: Float64[ndarray, "L L"]
    ) -> Float64[ndarray, " c"]:
        return np.sum((self._signed @ pairs) * self._signed.conj(), axis=1).real * deviation

    @override
    def weighted(self, weights: Float64[ndarray, " T"]) -> Float64[ndarray, " c"]:
        return self._covariances @ weights

    @override
    def around(self, resolvent: Float64[ndarray, " c"], middle: Float64[ndarray, " c"]) -> Float64[ndarray, " c"]:
        return resolvent**2 * middle

    def _head(self, point: Point) -> Num[ndarray, " c"]:
        return point.resolvent * (folded(self._crossed.conj().T).T @ (point.weights / 2))


def folded(signed: Num[ndarray, "L ..."]) -> Num[ndarray, "T ..."]:
    """The sum of the entries at lags l and -l, for l = 0 .. T-1; that at 0 counts twice."""
    middle = signed.shape[0] // 2
    return signed[middle:] + signed[middle::-1]
