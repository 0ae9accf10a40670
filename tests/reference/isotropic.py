"""Closed forms of the prediction risk for isotropic features, Sigma = I, as functions of γ = p/n alone.

Limits p, n → ∞ for ridge regression (X'X + n λ I)^-1 X'Y and the minimum-norm head (λ = 0), from the Marchenko-Pastur
law: Hastie, Montanari, Rosset and Tibshirani, arXiv 1903.08560, their results for isotropic features, ridge and the
misspecified model. `signal` is ‖B‖² = tr B'Sigma B, `noise_trace` is tr Sigma_e, and the signal-to-noise ratio (SNR) is
their quotient.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

Values = float | Sequence[float] | Float64[ndarray, "..."]


class IsotropicRisk(NamedTuple):
    """Parts of the excess risk, in the common shape of the arguments.

    Attributes:
        misspecification: signal that the features cannot see.
        bias: error that noise-free training targets would leave.
        variance: error that the noise of the training targets adds.
    """

    misspecification: Float64[ndarray, "..."]
    bias: Float64[ndarray, "..."]
    variance: Float64[ndarray, "..."]

    @property
    def excess(self) -> Float64[ndarray, "..."]:
        """Sum of the parts."""
        return np.asarray(self.misspecification + self.bias + self.variance)


def isotropic_risk(
    gamma: Values,
    *,
    signal: Values,
    noise_trace: Values,
    ridge: Values = 0.0,
    kept: Values = 1.0,
) -> IsotropicRisk:
    """Asymptotic risk at γ, for a head that sees the fraction `kept` of the signal.

    For λ = 0 and kept = 1 the variance is noise_trace γ/(1 - γ) below γ = 1 and noise_trace/(γ - 1) above, the bias 0
    and signal (1 - 1/γ); at γ = 1 the variance is infinite. With λ > 0 the bias is signal λ² m' and the variance
    noise_trace γ (m - λ m'), m(z) the Stieltjes transform of the Marchenko-Pastur law and m' its derivative at z = -λ.
    What the head does not see, (1 - kept) signal, stays as misspecification and acts as noise.
    """
    arguments = (gamma, signal, noise_trace, ridge, kept)
    g, r2, s2, lam, k = np.broadcast_arrays(*(np.asarray(argument, dtype=np.float64) for argument in arguments))
    unseen = np.maximum(1 - k, 0.0) * r2
    seen, noise = r2 - unseen, s2 + unseen
    # With v the transform of the n x n Gram matrix: m' = m (1 + γ m) / root, m - λ m' = λ m v / root. As λ vanishes, λ
    # m does so below γ = 1 and λ v above; each side has one expression that does not cancel.
    root = np.hypot(1 - g + lam, 2 * np.sqrt(g * lam))
    wide = g > 1
    one = 2 / (root + np.where(wide, g - 1, 1 - g) + lam + (root == 0))
    lam_m = np.where(wide, (lam * one + g - 1) / g, lam * one)
    lam_m_v = np.where(wide, lam_m * one, one * (g * lam_m + 1 - g))
    with np.errstate(divide="ignore", invalid="ignore"):
        bias = np.where(root == 0, 0.0, seen * lam_m * (lam + g * lam_m) / root)
        variance = np.where(noise == 0, 0.0, np.where(root == 0, np.inf, noise * g * lam_m_v / root))
    return IsotropicRisk(unseen, bias, variance)


def isotropic_optimal_ridge(*, gamma: float, signal: float, noise_trace: float) -> tuple[float, float]:
    """The ridge strength of lowest risk, λ* = γ/SNR, and the excess risk there, noise_trace γ m(-λ*).

    The risk is finite at γ = 1 and rises with γ throughout: no peak.
    """
    strength = noise_trace * gamma / signal
    return strength, float(isotropic_risk(gamma, signal=signal, noise_trace=noise_trace, ridge=strength).excess)
