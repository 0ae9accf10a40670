"""Moments that were measured on N rows, without what a head fitted to these rows explains by chance.

The best head B_N of N rows fits their noise, too: its mean squared residual is (1 - p/N) of that of fresh rows, and the
signal along each direction is tr Sigma_e/N too large. Neither matters for N far above p.
"""

# Letters: N rows, s sampled rows, p width.

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from lab.core.heads.population import Spectrum

# of a row that determines a direction alone, the residual is rounding
_LARGEST_SHARE = 1 - 1e-9


def fresh_residuals(
    squares: Float64[ndarray, " s"], leverages: Float64[ndarray, " s"], num_rows: int
) -> Float64[ndarray, " s"]:
    """Squared residuals r^2/(1 - h), whose mean is that of fresh rows; h = x'Sigma^-1 x/N is a row's share of its fit.

    Args:
        squares: squared residuals under B_N.
        leverages: x'Sigma^-1 x of the same rows, Sigma that of all N.
        num_rows: N.
    """
    own = leverages / num_rows
    return np.where(own < _LARGEST_SHARE, squares / (1 - np.minimum(own, _LARGEST_SHARE)), 0.0)


def fresh_spectrum(spectrum: Spectrum, noise_trace: float, num_rows: int) -> Spectrum:
    """The spectrum with tr Sigma_e/N less signal in each direction.

    A direction with less is set to 0, and the others are scaled so that the sum is that of all signals minus
    rank tr Sigma_e/N, or 0.

    Args:
        spectrum: of Sigma and B_N.
        noise_trace: tr Sigma_e, of fresh rows.
        num_rows: N.
    """
    values = spectrum.eigenvalues
    signals = values * spectrum.squared_coefficients
    rank = int(np.count_nonzero(values > 0))
    left = np.where(values > 0, np.maximum(signals - noise_trace / num_rows, 0.0), 0.0)
    total = float(left.sum())
    if total > 0:
        left *= max(float(signals.sum()) - rank * noise_trace / num_rows, 0.0) / total
    coefficients = np.divide(left, values, out=np.zeros_like(values), where=values > 0)
    return Spectrum(values, coefficients)
