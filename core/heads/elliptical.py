"""Asymptotic risk of a linear head on rows whose scale varies: x = tau^½ Sigma^½ g.

States of language models have a leverage x'Sigma^-1 x that varies far more than that of Gaussian rows. With Q =
(X'X/n + lambda I)^-1, rows of scale tau and delta = tr(Sigma Q)/n, the deterministic equivalent is

    Q = (lambda I + alpha Sigma)^-1,    alpha = mean tau / (1 + tau delta),    kappa = lambda / alpha,

so that the effective ridge kappa solves df1(kappa)/n = mean tau delta / (1 + tau delta) with delta = kappa df1/(n
lambda) (El Karoui, arXiv 1303.3372; for separable covariances Paul and Silverstein, 2009). The excess risk E on fresh
rows solves

    E = b + psi mean tau (r + tau E) / (1 + tau delta)^2,    psi = tr(Sigma Q Sigma Q)/n,

b the bias kappa^2 sum b_i^2 s_i/(s_i + kappa)^2 of `asymptotics` and r the squared residual of a row under the best
head, which may depend on its scale. For lambda = 0 and p < n, kappa = 0 and p/n = mean tau delta/(1 + tau delta); for
p > n, kappa is that of Gaussian rows and the variance is theirs times the mean of r/tau. With tau = 1 all of it is
`asymptotic_risk`.

Rows of zeros, a share f of all, have no part in a fit: heads are those of n(1 - f) rows of the others, whose covariance
is Sigma/(1 - f), and n lambda stays. Zeros are predicted for them, so that they have no excess risk.
"""

# Letters: p width, N rows.

import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Float64, Real
from numpy import ndarray
from scipy import optimize

from lab.core import validation
from lab.core.errors import InputError
from lab.core.heads.asymptotics import AsymptoticRisk, asymptotic_risk
from lab.core.heads.population import Spectrum

# scales below this share of their mean count as this, unless they are 0
_LEAST_SCALE = 1e-6


def row_scales(leverages: Real[ndarray, " N"], width: int) -> Float64[ndarray, " N"]:
    """The scales tau behind measured leverages x'Sigma^-1 x, with mean 1; 0 for rows of zeros.

    Gaussian rows have a leverage/p of variance 2/p. What that explains is taken off: deviations from the mean shrink so
    that their variance is (v - 2/p)/(1 + 2/p), v the measured one.

    Args:
        leverages: of rows of the population.
        width: p, the rank of Sigma.

    Raises:
        InputError: if one is negative or not finite, or all are 0.
    """
    values = validation.real_array("leverages", leverages, shape=(None,))
    if values.size == 0 or values.min() < 0 or not values.any():
        raise InputError("leverages must be 0 or more, and not all 0; give x'Sigma^-1 x of some rows")
    if not values.all():
        scales = np.zeros_like(values)
        scales[values > 0] = row_scales(values[values > 0], width)
        return scales / scales.mean()
    relative = values / values.mean()
    variance = float(relative.var())
    chance = 2 / validation.whole_number("width", width)
    kept = max(variance - chance, 0.0) / (1 + chance)
    scales = 1 + (relative - 1) * math.sqrt(kept / variance) if variance > 0 else np.ones_like(relative)
    scales = np.maximum(scales, _LEAST_SCALE)
    return scales / scales.mean()


def elliptical_risk(
    spectrum: Spectrum,
    scales: Real[ndarray, " N"],
    residuals: Real[ndarray, " N"],
    *,
    num_train: int,
    ridge: float,
) -> AsymptoticRisk:
    """The risk (formulas at the top of this file) on rows of the population.

    Args:
        spectrum: of Sigma, the mean of x x'.
        scales: tau of rows of the population, with mean 1 and 0 for rows of zeros; training rows are drawn from them.
        residuals: squared residual of each of these rows under the best head, summed over outputs.
        num_train: n.
        ridge: lambda; 0 for the minimum-norm head.

    Returns:
        The risk, with the mean residual as its noise. With lambda = 0 and p = n(1 - f) the variance is infinite.

    Raises:
        InputError: if lengths differ, a scale or residual is negative, all scales are 0, and as `asymptotic_risk`.
    """
    tau = validation.real_array("scales", scales, shape=(None,))
    rest = validation.real_array("residuals", residuals, shape=tau.shape)
    if tau.size == 0 or tau.min() < 0 or not tau.any() or rest.min() < 0:
        raise InputError("scales must be 0 or more, and not all 0, and residuals 0 or more; see row_scales")
    if not tau.all():
        return _without_zeros(spectrum, tau, rest, num_train, ridge)
    noise = float(rest.mean())
    # checks the arguments, and is what happens beyond p = n without ridge
    gaussian = asymptotic_risk(spectrum, noise, num_train=num_train, ridge=ridge)
    eigenvalues = spectrum.eigenvalues[spectrum.eigenvalues > 0]
    signals = (spectrum.eigenvalues * spectrum.squared_coefficients)[spectrum.eigenvalues > 0]
    width = eigenvalues.size
    if ridge == 0 and width >= num_train:
        gain = float(np.mean(rest / tau)) / noise if noise else 0.0
        return AsymptoticRisk(gaussian.bias, gaussian.variance * gain, noise, gaussian.kappa)
    if math.isinf(ridge):
        return gaussian
    if ridge == 0:
        kappa = 0.0
        delta = _root(lambda log_delta: width / num_train - _seen(tau, math.exp(log_delta)), -40.0, 60.0)
        kept = np.ones(width)
        alpha = width / (num_train * delta)
    else:

        def imbalance(log_kappa: float) -> float:
            trace = float(np.sum(eigenvalues / (eigenvalues + math.exp(log_kappa))))
            return trace / num_train - _seen(tau, math.exp(log_kappa) * trace / (num_train * ridge))

        top = math.log(ridge + 2 * float(eigenvalues.sum()) / num_train * float(tau.max()))
        kappa = _root(imbalance, math.log(ridge) - 2.0, top + 2.0)
        kept = eigenvalues / (eigenvalues + kappa)
        alpha = ridge / kappa
        delta = float(kept.sum()) / (num_train * alpha)
    psi = float(kept @ kept) / (num_train * alpha**2)
    weights = tau / (1 + tau * delta) ** 2
    margin = 1 - psi * float(np.mean(tau * weights))
    bias = float(signals @ (1 - kept) ** 2) / margin
    return AsymptoticRisk(bias, psi * float(np.mean(weights * rest)) / margin, noise, kappa)


def rows_of_length(scales: Float64[ndarray, " N"], num_train: int) -> int:
    """How many of n rows are not of zeros, on average; 1 at the least."""
    return max(round(num_train * float(np.mean(scales > 0))), 1)


def _without_zeros(
    spectrum: Spectrum, tau: Float64[ndarray, " N"], rest: Float64[ndarray, " N"], num_train: int, ridge: float
) -> AsymptoticRisk:
    """The risk on all rows, from that on rows that are not of zeros."""
    present = tau > 0
    share, rows = float(np.mean(present)), rows_of_length(tau, num_train)
    others = Spectrum(spectrum.eigenvalues / share, spectrum.squared_coefficients)
    strength = ridge * num_train / rows
    found = elliptical_risk(others, tau[present] * share, rest[present], num_train=rows, ridge=strength)
    return AsymptoticRisk(share * found.bias, share * found.variance, float(rest.mean()), share * found.kappa)


def _seen(tau: Float64[ndarray, " N"], delta: float) -> float:
    """mean tau delta / (1 + tau delta)."""
    return float(np.mean(tau * delta / (1 + tau * delta)))


def _root(function: Callable[[float], float], low: float, high: float) -> float:
    """Exp of where a decreasing function of a logarithm is zero; bounds widen until it is between them."""
    while function(low) < 0:
        low -= 5.0
    while function(high) > 0:
        high += 5.0
    return math.exp(optimize.brentq(function, low, high, xtol=1e-13, rtol=1e-13))
