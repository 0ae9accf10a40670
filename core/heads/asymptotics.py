"""Asymptotic prediction risk of a linear head on frozen features with independent rows, from second moments.

The head is ridge regression B̂ = (X'X + n λ I)^-1 X'Y of n rows, or B̂ = X⁺Y for λ = 0 (minimum norm). Its excess risk
E‖B̂'x - B'x‖² is bias plus variance, summed over outputs; the total risk adds tr Sigma_e. As p and n grow with p/n fixed
it depends on Sigma, B and tr Sigma_e through one number, the effective ridge κ:

    κ = λ + (κ/n) Σ s_i/(s_i + κ),    df = Σ (s_i/(s_i + κ))²,
    bias = κ² Σ b_i² s_i/(s_i + κ)² / (1 - df/n),    variance = tr Sigma_e (df/n) / (1 - df/n),

where 1/κ is the companion Stieltjes transform at -λ (Hastie, Montanari, Rosset and Tibshirani, arXiv 1903.08560, their
results for correlated features and for ridge; several outputs enter through b_i² = ‖v_i'B‖² and the trace). At finite n
the true mean is higher next to p = n: for p < n by the factor (n - p)/(n - p - 1), 2.6 % at n = 400 and p/n = 0.9.
"""

# Letters: p width, k effective ridges.

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import scipy
from jaxtyping import Float64
from numpy import ndarray

from lab.core.errors import InputError
from lab.core.heads.population import Spectrum

# of n, the variance up to which the finite factor of unequal eigenvalues is near in simulations
_LARGEST_SHARE = 0.25


@dataclass(frozen=True, slots=True)
class Risk:
    """Expected squared prediction error, summed over outputs.

    Attributes:
        bias: the excess risk with noise-free training targets.
        variance: the excess risk added by noise in the training targets.
        noise_trace: tr Sigma_e, the risk of the best linear head.
    """

    bias: float
    variance: float
    noise_trace: float

    @property
    def excess(self) -> float:
        """Bias plus variance: the distance from the best linear head on the same features."""
        return self.bias + self.variance

    @property
    def total(self) -> float:
        """Mean squared error on a new row."""
        return self.excess + self.noise_trace


@dataclass(frozen=True, slots=True)
class AsymptoticRisk(Risk):
    """Risk in the limit of many rows and features.

    Attributes:
        kappa: the effective ridge κ; 0 for the minimum-norm head with at most as many features as rows.
    """

    kappa: float


class RidgeOptimum(NamedTuple):
    """The ridge strength of lowest risk.

    Attributes:
        strength: λ in B̂ = (X'X + n λ I)^-1 X'Y; 0 for the minimum-norm head, infinity for the head that predicts zero.
        risk: the asymptotic risk at this strength.
    """

    strength: float
    risk: AsymptoticRisk


def asymptotic_risk(spectrum: Spectrum, noise_trace: float, *, num_train: int, ridge: float) -> AsymptoticRisk:
    """The risk (formulas at the top of this file) for any feature covariance, number of outputs and p/n.

    Args:
        spectrum: of the features. Directions without variance do not count towards p.
        noise_trace: tr Sigma_e.
        num_train: n.
        ridge: λ; 0 for the minimum-norm head, infinity for the head that predicts zero.

    Returns:
        The risk. With λ = 0 and p = n the variance is infinite, unless there is no noise.

    Raises:
        InputError: if an argument is negative or NaN, or the spectrum's arrays do not match.
    """
    _check(noise_trace, num_train)
    if not ridge >= 0:
        raise InputError(f"ridge={ridge} must be positive, or 0 for the minimum-norm head")
    eigenvalues, signals = _modes(spectrum)
    kappa = _effective_ridge(eigenvalues, num_train, ridge)
    if math.isinf(kappa):
        return AsymptoticRisk(float(signals.sum()), 0.0, noise_trace, kappa)
    if kappa == 0:
        free_rows = num_train - eigenvalues.size
        inverse_trace = eigenvalues.size / free_rows if free_rows else math.inf
        return AsymptoticRisk(0.0, noise_trace * inverse_trace if noise_trace else 0.0, noise_trace, kappa)
    kept = eigenvalues / (eigenvalues + kappa)
    lost = kappa / (eigenvalues + kappa)
    # 1 - df/n, rewritten with the equation for κ: the difference itself cancels near p = n
    margin = ridge / kappa + float(kept @ lost) / num_train
    bias = float(signals @ lost**2) / margin
    variance = noise_trace * float(kept @ kept) / num_train / margin
    return AsymptoticRisk(bias, variance, noise_trace, kappa)


def exact_risk(spectrum: Spectrum, noise_trace: float, *, num_train: int) -> Risk | None:
    """Mean risk of the minimum-norm head over Gaussian rows, at finite n and p.

    For p < n - 1 and any covariance the bias is 0 and the variance tr Sigma_e p/(n - p - 1) (the mean of an inverse
    Wishart matrix). For p > n + 1 and Sigma = c I the bias is (1 - n/p) tr B'Sigma B and the variance
    tr Sigma_e n/(p - n - 1). Directions without variance do not count in p.

    Returns:
        The risk; None without a closed form: for |p - n| ≤ 1, where the mean is infinite, and for p > n + 1 with
        unequal eigenvalues.

    Raises:
        InputError: as `asymptotic_risk`.
    """
    _check(noise_trace, num_train)
    eigenvalues, signals = _modes(spectrum)
    width = eigenvalues.size
    if width < num_train - 1:
        return Risk(0.0, noise_trace * width / (num_train - width - 1), noise_trace)
    if width > num_train + 1 and _are_equal(eigenvalues):
        bias = float(signals.sum()) * (1 - num_train / width)
        return Risk(bias, noise_trace * num_train / (width - num_train - 1), noise_trace)
    return None


def finite_factor(spectrum: Spectrum, *, num_train: int) -> float:
    """Mean variance of the minimum-norm head over Gaussian rows at finite n and p, over its limit.

    Exact where `exact_risk` is: with v the limit's variance for tr Sigma_e = 1, 1/(1 - v/p) for p < n, and 1/(1 - v/n)
    for p > n and Sigma = c I. For p > n and unequal eigenvalues the same formula is an approximation, used up to
    v = n/4: where s_i falls like 1/i or more slowly it is within 3 % in simulations, and up to 8 % too high where small
    eigenvalues alone keep the limit finite. Beyond, where about n directions carry the features, no factor is known: it
    is 1, and the mean may lie on either side of the limit. It is 1 for |p - n| <= 1, too, where the mean is infinite.
    """
    eigenvalues, _ = _modes(spectrum)
    width = eigenvalues.size
    if abs(width - num_train) <= 1:
        return 1.0
    silent = Spectrum(eigenvalues, np.zeros(width))
    variance = asymptotic_risk(silent, 1.0, num_train=num_train, ridge=0.0).variance
    if width > num_train and variance > _LARGEST_SHARE * num_train and not _are_equal(eigenvalues):
        return 1.0
    return 1 / (1 - variance / min(width, num_train))


def optimal_ridge(spectrum: Spectrum, noise_trace: float, *, num_train: int) -> RidgeOptimum:
    """Ridge strength λ ≥ 0 that minimises the asymptotic risk, from 0 to infinity.

    The search runs over log κ, because every κ above the minimum-norm head's corresponds to exactly one strength,
    λ = κ (1 - Σ s_i/(s_i + κ)/n). A grid brackets the minimum, golden-section search refines it. The risk is accurate
    to rounding, the strength to about 1e-7 of κ, since the minimum is flat; a gain within rounding returns strength 0.

    Raises:
        InputError: as `asymptotic_risk`.
    """
    _check(noise_trace, num_train)
    eigenvalues, signals = _modes(spectrum)
    strengths = [0.0, math.inf]
    if signals.any():

        def at(log_kappa: Float64[ndarray, " k"]) -> tuple[Float64[ndarray, " k"], Float64[ndarray, " k"]]:
            kappa = np.exp(log_kappa)[:, None]
            kept = eigenvalues / (eigenvalues + kappa)
            lost = kappa / (eigenvalues + kappa)
            # rounding may move the edge of the interval below λ = 0
            share = np.maximum(1 - kept.sum(axis=1) / num_train, 0.0)
            margin = share + np.sum(kept * lost, axis=1) / num_train
            excess = (lost**2 @ signals + noise_trace * np.sum(kept**2, axis=1) / num_train) / margin
            return kappa[:, 0] * share, excess

        low, high = _search_interval(eigenvalues, signals, noise_trace, num_train)
        # the risk varies on the scale of a factor e in κ for any spectrum: four points per factor miss no minimum
        grid = np.linspace(low, high, 2 + math.ceil(4 * (high - low)))
        nearest = int(np.argmin(at(grid)[1]))
        bottom = scipy.optimize.minimize_scalar(
            lambda log_kappa: at(np.array([log_kappa]))[1][0],
            bounds=(grid[max(nearest - 1, 0)], grid[min(nearest + 1, grid.size - 1)]),
            method="bounded",
            options={"xatol": 1e-9},
        )
        strengths += at(np.array([grid[nearest], bottom.x]))[0].tolist()
    optima = [RidgeOptimum(x, asymptotic_risk(spectrum, noise_trace, num_train=num_train, ridge=x)) for x in strengths]
    best = min(optima, key=lambda optimum: optimum.risk.excess)
    return optima[0] if optima[0].risk.excess <= best.risk.excess * (1 + 1e-13) else best


def _are_equal(eigenvalues: Float64[ndarray, " p"]) -> bool:
    """Up to the rounding of an eigendecomposition."""
    return bool(np.ptp(eigenvalues) <= 1e-12 * eigenvalues.max())


def _search_interval(
    eigenvalues: Float64[ndarray, " p"], signals: Float64[ndarray, " p"], noise_trace: float, num_train: int
) -> tuple[float, float]:
    """Bounds of log κ outside which the risk is monotone towards its values at λ = 0 and λ = infinity."""
    # Leading terms of the risk. Small κ: the bias grows as κ² Σ b²/s, the variance falls as κ tr Sigma_e Σ 1/s for
    # p < n and as 1/κ for p = n. Large κ: the bias stays below the signal by 2 Σ b² s²/κ, the variance is Σ s²/κ².
    sharpness = float(np.sum(signals / eigenvalues**2))
    small = [
        float(eigenvalues.min()),
        noise_trace * float(np.sum(1 / eigenvalues)) / (num_train * sharpness),
        math.sqrt(noise_trace / sharpness),
    ]
    spread = (noise_trace + float(signals.sum())) * float(eigenvalues @ eigenvalues)
    large = [float(eigenvalues.max()), spread / (num_train * float(signals @ eigenvalues))]
    # a factor of 1000 further out, only the leading terms matter
    low = min(value for value in small if value > 0) * 1e-3
    high = max(large) * 1e3
    return math.log(max(low, _effective_ridge(eigenvalues, num_train, 0.0))), math.log(high)


def _effective_ridge(eigenvalues: Float64[ndarray, " p"], num_train: int, ridge: float) -> float:
    """κ with κ = λ + (κ/n) Σ s_i/(s_i + κ) to about 1e-14 relative, for positive eigenvalues in ascending order."""
    width = eigenvalues.size
    if math.isinf(ridge) or (ridge == 0 and width <= num_train):
        return ridge
    # s_j ≤ s_i for all i ≥ j in the sum gives κ ≥ s_j ((p - j)/n - 1); s/(s + κ) ≤ s/κ gives the upper bound
    lower = max(ridge, float(np.max(eigenvalues * (np.arange(width, 0, -1) / num_train - 1), initial=0.0)))
    upper = ridge + float(eigenvalues.sum()) / num_train

    def imbalance(log_kappa: float) -> float:
        # λ/κ + Σ s/(s + κ)/n - 1, split into integers and small terms: summed directly, it cancels near λ = 0, p = n
        kappa = math.exp(log_kappa)
        num_below = int(np.searchsorted(eigenvalues, kappa))
        kept = float(np.sum(eigenvalues[:num_below] / (eigenvalues[:num_below] + kappa)))
        lost = float(np.sum(kappa / (eigenvalues[num_below:] + kappa)))
        return ridge / kappa + (width - num_below - num_train + kept - lost) / num_train

    # a bound may be attained (one eigenvalue, or a ridge above all of them); rounding then decides the sign
    slack = 1e-9
    root = scipy.optimize.brentq(imbalance, math.log(lower) - slack, math.log(upper) + slack, xtol=1e-15, rtol=1e-15)
    return math.exp(root)


def _modes(spectrum: Spectrum) -> tuple[Float64[ndarray, " p"], Float64[ndarray, " p"]]:
    """Positive eigenvalues in ascending order, and the signal b_i² s_i along each."""
    eigenvalues, coefficients = spectrum.eigenvalues, spectrum.squared_coefficients
    if eigenvalues.ndim != 1 or eigenvalues.shape != coefficients.shape or eigenvalues.size == 0:
        raise InputError(
            f"spectrum has eigenvalues of shape {eigenvalues.shape} and squared_coefficients of shape "
            f"{coefficients.shape}; give one of each for every feature, and at least one feature"
        )
    for name, values in (("eigenvalues", eigenvalues), ("squared_coefficients", coefficients)):
        if not np.all(np.isfinite(values)) or values.min() < 0:
            raise InputError(
                f"spectrum.{name} contains {values.min()}, expected finite numbers of at least 0; "
                "set values that are negative by rounding to 0"
            )
    order = np.argsort(eigenvalues)
    order = order[np.count_nonzero(eigenvalues == 0) :]
    if order.size == 0:
        raise InputError("spectrum.eigenvalues are all 0; at least one feature must vary")
    return eigenvalues[order], eigenvalues[order] * coefficients[order]


def _check(noise_trace: float, num_train: int) -> None:
    if not 0 <= noise_trace < math.inf:
        raise InputError(f"noise_trace={noise_trace} must be a finite number of at least 0")
    if num_train < 1:
        raise InputError(f"num_train={num_train} must be at least 1 row")
