"""Asymptotic risk of the minimum-norm and the ridge head on dependent rows: T tokens of a sequence are T rows.

As the number of sequences N and the width p grow together, with T and p/n fixed (n = NT), the risk depends on the lag
covariances C_l = E[x_{t+l} x_t'] through one T x T matrix, the Toeplitz matrix Phi with entries phi_|t-s|:

    Q = (λ I + (1/T) Σ_ts H_ts C_{t-s})^-1,    H = (I + Phi)^-1,    phi_l = tr(C_l Q)/n.

With T = 1 this is the equation of the effective ridge κ (`heads.asymptotics`), κ = λ (1 + phi). For λ → 0 and
p > n the matrices Q and Phi grow as 1/λ; λQ and λPhi obey the same equations with λI and I exchanged.
The head's mean is B̄ = Q (1/T) Σ_ts H_ts E[x_t y_s'], and its deviation has squared lag products V_l = tr E[Δ' C_l Δ]
that solve a linear system of T unknowns: with the residuals r_l = tr E[(y_{t+l} - B̄'x_{t+l})(y_t - B̄'x_t)'],

    V = J (r + V),    J = Psi K / (nT),    Psi_kl = tr(C_k Q C_l Q),    K_kl = Σ_{|t-s| = k} (H Theta_l H)_ts,

Theta_l the T x T matrix of ones at |t-s| = l, and every C_l made symmetric. The excess risk is
tr (B̄ - B)' Sigma (B̄ - B) + V_0. J is also the derivative of the map phi → phi, which Newton's method uses.

The formulas come from our own leave-one-sequence-out calculation, checked against exact risks given the features but
not proved. Two special cases are known: T = 1, and noise independent of the features (Atanasov, Zavatone-Veth and
Pehlevan, arXiv 2408.04607; Moniri and Hassani, arXiv 2412.03702).
"""

# Letters: w widths, T tokens and lags, r signal directions of the features, m outputs, c components (modes or planes).

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Num
from numpy import ndarray
from scipy import linalg

from lab.core import validation
from lab.core.errors import InputError
from lab.core.heads.asymptotics import Risk
from lab.experiments.hmm_risk.dependent_rows.token_rows import HmmTokenRows, ModeTokenRows, TokenRows

# The plain iteration shrinks errors by about min(p/n, n/p) per step; Newton's method takes over long before this.
_MAX_STEPS = 500
# tolerance of phi, relative to phi_0; the next Newton step would square it
_TOLERANCE = 1e-11


def dependent_risk(rows: TokenRows, width: int, *, num_train: int, ridge: float = 0.0) -> Risk:
    """Asymptotic risk (formulas at the top of this file) on both sides of p = n.

    Bias and variance are split as in `dependent_rows.exact`: the variance comes from the targets given all features; it
    is V with r replaced by the covariance of the targets given their sequence.

    Args:
        rows: the distribution of the rows.
        width: p.
        num_train: n, of whole sequences.
        ridge: λ in B̂ = (X'X + n λ I)^-1 X'Y; 0 for the minimum-norm head.

    Returns:
        The risk. With λ = 0 and p = n the variance is infinite, and for T > 1 so is the bias.

    Raises:
        InputError: if an argument is out of range, or the equations cannot be solved to eleven digits.
    """
    noise_trace = rows.noise_trace(width)
    length = rows.length
    if validation.whole_number("num_train", num_train) % length:
        raise InputError(f"num_train={num_train} must be whole sequences of {length} tokens; give a multiple")
    strength = validation.non_negative_number("ridge", ridge)
    if strength == 0 and width == num_train:
        return Risk(math.inf if length > 1 else 0.0, math.inf, noise_trace)
    lags = _lags(rows, width)
    point = _solve(lags, num_train, strength, is_scaled=strength > 0 or width > num_train)
    response = np.linalg.inv(np.eye(length) - point.jacobian)
    mean_error, residuals = lags.mean_head(point)
    noise = rows.sequence_noise(width)
    sandwich = point.kernel @ noise @ point.kernel
    variance_source = point.products @ _diagonal_sums(sandwich) / (num_train * length)
    source = point.jacobian @ residuals
    variance = float(response[0] @ variance_source)
    bias = mean_error + float(response[0] @ (source - variance_source))
    return Risk(bias, variance, noise_trace)


@dataclass(frozen=True, slots=True)
class _Point:
    """A point of the iteration for the equations.

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


class _Lags(ABC):
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
    def mean_head(self, point: _Point) -> tuple[float, Float64[ndarray, " T"]]:
        """tr (B̄ - B)' Sigma (B̄ - B), and the residuals r_l."""


def _lags(rows: TokenRows, width: int) -> _Lags:
    if isinstance(rows, HmmTokenRows):
        return _StateLags(rows, width)
    if isinstance(rows, ModeTokenRows):
        return _ModeLags(rows, width)
    raise TypeError(f"no lag covariances are known for {type(rows).__name__}")


class _StateLags(_Lags):
    """C_l = W A^l P W' (+ s I at l = 0), in the r directions that W reaches; the other p - r are pure noise.

    A resolvent is the r x r block, flattened, followed by the entry shared by all other directions.
    """

    def __init__(self, rows: HmmTokenRows, width: int) -> None:
        self.length = rows.length
        _, reduced = np.linalg.qr(rows.hmm.loading[:width])
        self._size = reduced.shape[0]
        self._num_free = width - self._size
        self._noise = rows.noise_variance
        states = rows.lag_covariances
        transposed = states.swapaxes(1, 2)
        self._targets = np.trace(states[:-1], axis1=1, axis2=2)
        self._covariances = reduced @ ((states + transposed)[:-1] / 2) @ reduced.T
        self._covariances[0] += self._noise * np.eye(self._size)
        # E[x_{t+l} y_t'] = Cov(x_{t+l}, z_{t+1}) for l = 0 .. T-1 and for l = 0 .. -(T-1)
        self._ahead = reduced @ np.concatenate([transposed[1:2], states[: self.length - 1]])
        self._behind = reduced @ transposed[1:]

    def resolvent(self, weights: Float64[ndarray, " T"], shift: float) -> Float64[ndarray, " rr_plus_1"]:
        matrix = np.tensordot(weights, self._covariances, axes=1)
        matrix[np.diag_indices(self._size)] += shift
        inverse = linalg.inv(matrix)
        return np.append((inverse + inverse.T) / 2, 1 / (shift + weights[0] * self._noise))

    def traces(self, resolvent: Float64[ndarray, " rr_plus_1"]) -> Float64[ndarray, " T"]:
        traces = self._covariances.reshape(self.length, -1) @ resolvent[:-1]
        traces[0] += self._num_free * self._noise * resolvent[-1]
        return traces

    def products(self, resolvent: Float64[ndarray, " rr_plus_1"]) -> Float64[ndarray, "T T"]:
        root = linalg.cholesky(self._block(resolvent), lower=True)
        seen = (root.T @ self._covariances @ root).reshape(self.length, -1)
        products = seen @ seen.T
        products[0, 0] += self._num_free * (self._noise * resolvent[-1]) ** 2
        return products

    def mean_head(self, point: _Point) -> tuple[float, Float64[ndarray, " T"]]:
        # a weight covers both signs of a lag, except lag 0
        halves = point.weights / 2
        head = self._block(point.resolvent) @ np.tensordot(halves, self._ahead + self._behind, axes=1)
        error = head - linalg.solve(self._covariances[0], self._ahead[0], assume_a="pos")
        crossed = np.tensordot(self._ahead + self._behind, head, axes=2)
        quadratic = np.tensordot(self._covariances, head @ head.T, axes=2)
        return float(np.sum(error * (self._covariances[0] @ error))), self._targets - crossed + quadratic

    def _block(self, resolvent: Float64[ndarray, " rr_plus_1"]) -> Float64[ndarray, "r r"]:
        return resolvent[:-1].reshape(self._size, self._size)


class _ModeLags(_Lags):
    """C_l is diagonal, with one number per mode or plane, so a resolvent is a vector at every width."""

    def __init__(self, rows: ModeTokenRows, width: int) -> None:
        self.length = rows.length
        self._multiplicity = rows.modes_per_component
        self._states = rows.autocovariance[: rows.num_components(width)]
        self._covariances = self._states[:, :-1].real.copy()
        self._covariances[:, 0] = rows.noise_variance

    def resolvent(self, weights: Float64[ndarray, " T"], shift: float) -> Float64[ndarray, " c"]:
        return 1 / (shift + self._covariances @ weights)

    def traces(self, resolvent: Float64[ndarray, " c"]) -> Float64[ndarray, " T"]:
        return self._multiplicity * (resolvent @ self._covariances)

    def products(self, resolvent: Float64[ndarray, " c"]) -> Float64[ndarray, "T T"]:
        seen = resolvent[:, None] * self._covariances
        return self._multiplicity * (seen.T @ seen)

    def mean_head(self, point: _Point) -> tuple[float, Float64[ndarray, " T"]]:
        # E[y_{t+l} conj(x_t)] for l = 0 .. T-1 and for l = 0 .. -(T-1)
        behind = self._states[:, 1:]
        ahead = np.hstack([self._states[:, 1:2], self._states[:, : self.length - 1].conj()])
        crossed = ahead + behind
        head = point.resolvent * (crossed @ (point.weights / 2))
        error = head - self._states[:, 1] / self._covariances[:, 0]
        mean_error = self._multiplicity * float(np.abs(error) ** 2 @ self._covariances[:, 0])
        residuals = self._states[:, :-1].real + np.abs(head[:, None]) ** 2 * self._covariances
        residuals -= (head.conj()[:, None] * crossed).real
        return mean_error, self._multiplicity * residuals.sum(axis=0)


def _solve(lags: _Lags, num_train: int, ridge: float, *, is_scaled: bool) -> _Point:
    """The fixed point of phi; `is_scaled` for the equations of λPhi and λQ, with I in Q and λI in H."""
    length = lags.length
    shift, identity = (1.0, ridge) if is_scaled else (0.0, 1.0)

    def at(phi: Float64[ndarray, " T"]) -> tuple[Float64[ndarray, " T"], _Point] | None:
        """The next phi, or None outside the positive definite matrices."""
        try:
            factor = linalg.cho_factor(linalg.toeplitz(phi) + identity * np.eye(length))
            kernel = linalg.cho_solve(factor, np.eye(length))
            weights = _diagonal_sums(kernel) / length
            resolvent = lags.resolvent(weights, shift)
            products = lags.products(resolvent)
        except linalg.LinAlgError:
            return None
        jacobian = products @ _kernel_products(kernel) / (num_train * length)
        return lags.traces(resolvent) / num_train, _Point(kernel, weights, resolvent, products, jacobian)

    # λPhi is largest without H, and Newton's steps go down from there; without ridge and below p = n, Phi grows from 0
    start = np.zeros(length)
    if is_scaled:
        start = lags.traces(lags.resolvent(start, shift)) / num_train
    phi, current = start, at(start)
    for _ in range(_MAX_STEPS):
        assert current is not None, "the plain iteration keeps matrices positive definite"
        following, point = current
        gap = following - phi
        if np.abs(gap).max() <= _TOLERANCE * following[0]:
            return point
        jumped = phi + np.linalg.solve(np.eye(length) - point.jacobian, gap)
        attempt = at(jumped)
        if attempt is not None and np.abs(attempt[0] - jumped).max() < np.abs(gap).max() / 2:
            phi, current = jumped, attempt
        else:
            phi, current = following, at(following)
    raise InputError(
        f"num_train={num_train}: the risk of dependent rows was not found to {_TOLERANCE:g} in {_MAX_STEPS} steps; "
        "leave out widths next to num_train"
    )


def _kernel_products(kernel: Float64[ndarray, "T T"]) -> Float64[ndarray, "T T"]:
    """K: sums along the diagonals of H Theta_l H."""
    length = kernel.shape[0]
    columns = [_diagonal_sums(kernel @ kernel)]
    # H S H + (H S H)' with S the ones on one side of the diagonal
    columns += [2 * _diagonal_sums(kernel[:, lag:] @ kernel[: length - lag]) for lag in range(1, length)]
    return np.column_stack(columns)


def _diagonal_sums(matrix: Float64[ndarray, "T T"]) -> Float64[ndarray, " T"]:
    """Σ_{|t-s| = l} of the entries, for l = 0 .. T-1."""
    times = np.arange(matrix.shape[0])
    return np.bincount(np.abs(np.subtract.outer(times, times)).ravel(), weights=matrix.ravel())
