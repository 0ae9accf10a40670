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

# Letters: T tokens and lags.

import math

import numpy as np
import scipy
from jaxtyping import Float64
from numpy import ndarray
from scipy import linalg

from lab.core import validation
from lab.core.errors import InputError
from lab.core.heads.asymptotics import Risk
from lab.experiments.hmm_risk.dependent_rows.lags import Lags, Point
from lab.experiments.hmm_risk.dependent_rows.lags_of_rows import lags_of
from lab.experiments.hmm_risk.dependent_rows.token_rows import TokenRows

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
    lags = lags_of(rows, width)
    point = solve(lags, num_train, strength, is_scaled=strength > 0 or width > num_train)
    response = np.linalg.inv(np.eye(length) - point.jacobian)
    mean_error, residuals = lags.mean_head(point)
    noise = rows.sequence_noise(width)
    sandwich = point.kernel @ noise @ point.kernel
    variance_source = point.products @ diagonal_sums(sandwich) / (num_train * length)
    source = point.jacobian @ residuals
    variance = float(response[0] @ variance_source)
    bias = mean_error + float(response[0] @ (source - variance_source))
    return Risk(bias, variance, noise_trace)


def optimal_dependent_ridge(rows: TokenRows, width: int, *, num_train: int) -> float:
    """The strength λ ≥ 0 of lowest asymptotic risk, to about 1e-4 of itself; the risk there is flat.

    A grid from 1e-6 to 1e6 times the mean variance of a feature brackets the minimum; λ = 0 is compared too.

    Raises:
        InputError: as `dependent_risk`.
    """

    def at(log_ridge: float) -> float:
        return dependent_risk(rows, width, num_train=num_train, ridge=math.exp(log_ridge)).excess

    unit = math.log(rows.noise_variance + float(np.sum(rows.factor(width) ** 2)) / width)
    grid = unit + np.linspace(math.log(1e-6), math.log(1e6), 25)
    risks = [at(point) for point in grid]
    nearest = int(np.argmin(risks))
    low, high = grid[max(nearest - 1, 0)], grid[min(nearest + 1, grid.size - 1)]
    bottom = scipy.optimize.minimize_scalar(at, bounds=(low, high), method="bounded", options={"xatol": 1e-4})
    best = math.exp(float(bottom.x))
    without = dependent_risk(rows, width, num_train=num_train).excess
    return 0.0 if without <= float(bottom.fun) else best


def solve(lags: Lags, num_train: int, ridge: float, *, is_scaled: bool) -> Point:
    """The fixed point of phi; `is_scaled` for the equations of λPhi and λQ, with I in Q and λI in H."""
    length = lags.length
    shift, identity = (1.0, ridge) if is_scaled else (0.0, 1.0)

    def at(phi: Float64[ndarray, " T"]) -> tuple[Float64[ndarray, " T"], Point] | None:
        """The next phi, or None outside the positive definite matrices."""
        try:
            factor = linalg.cho_factor(linalg.toeplitz(phi) + identity * np.eye(length))
            kernel = linalg.cho_solve(factor, np.eye(length))
            weights = diagonal_sums(kernel) / length
            resolvent = lags.resolvent(weights, shift)
            products = lags.products(resolvent)
        except linalg.LinAlgError:
            return None
        jacobian = products @ _kernel_products(kernel) / (num_train * length)
        return lags.traces(resolvent) / num_train, Point(kernel, weights, resolvent, products, jacobian)

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
    columns = [diagonal_sums(kernel @ kernel)]
    # H S H + (H S H)' with S the ones on one side of the diagonal
    columns += [2 * diagonal_sums(kernel[:, lag:] @ kernel[: length - lag]) for lag in range(1, length)]
    return np.column_stack(columns)


def diagonal_sums(matrix: Float64[ndarray, "T T"]) -> Float64[ndarray, " T"]:
    """Σ_{|t-s| = l} of the entries, for l = 0 .. T-1."""
    times = np.arange(matrix.shape[0])
    return np.bincount(np.abs(np.subtract.outer(times, times)).ravel(), weights=matrix.ravel())
