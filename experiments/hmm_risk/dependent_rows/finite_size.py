"""How far the theory of dependent rows is from its limit: the first correction for a finite number of directions.

The limit (`dependent_rows.asymptotic`) is right for many directions of the features and many sequences. For few, the
fourth moments of Gaussian rows have a second pairing, of x_t with the residual of another row of its sequence, which
the limit leaves out. With it, the covariance M = E[Δ Δ'] of the head's deviation
solves

    M = Q (Σ_tt' C_{t-t'} [H R H]_tt' + Σ_ab k_ab (S_a S_b' + C_a M C_b')) Q / (nT),    R_ts = r_|t-s| + tr C_{t-s} M,

with S_l = E[x_{t+l} (y_t - B̄'x_t)'] and k_ab = Σ_ts H_{t+a,s} H_{t,s-b}. The first sum alone is the limit. For one
token a sequence without ridge, and p < n, the solution is the exact mean at finite n, tr Sigma_e p/(n - p - 1). The
calculation is ours, as for the limit, and is checked against measured risks.
"""

# Letters: T tokens and lags, L = 2 T - 1 lags of both signs.

import math

import numpy as np
from jaxtyping import Float64
from numpy import ndarray
from scipy import linalg

from lab.experiments.hmm_risk.dependent_rows.asymptotic import diagonal_sums, solve
from lab.experiments.hmm_risk.dependent_rows.lags_of_rows import lags_of
from lab.experiments.hmm_risk.dependent_rows.token_rows import TokenRows

# Beyond this share the limit is not given. Over q = 1, 2 and 5, T = 20, 50 and 100 and p/n from 0.005 to 1.5, measured
# risks are within 5 % of the limit wherever the correction is below it (tests/…/test_finite_size.py).
LARGEST_CORRECTION = 0.03

_MAX_STEPS = 300
_TOLERANCE = 1e-6


# equations without a solution diverge, until the sum is not finite
@np.errstate(over="ignore", invalid="ignore")
def first_correction(rows: TokenRows, width: int, *, num_train: int, ridge: float = 0.0) -> float:
    """The first correction of the excess risk for few directions or sequences, as a share of the limit.

    Without ridge, independent rows have one too, 1/(|n - p| - 1): it is left out, since theory of independent rows
    leaves it out as well.

    Args:
        rows: the distribution of the rows.
        width: p.
        num_train: n, of whole sequences.
        ridge: λ; 0 for the minimum-norm head.

    Returns:
        The share; infinite where the corrected equations have no solution, and NaN for λ = 0 and |p - n| ≤ 1, where
        the mean risk is infinite.
    """
    if ridge == 0 and abs(width - num_train) <= 1:
        return math.nan
    usual = 1 / (abs(num_train - width) - 1) if ridge == 0 else 0.0
    lags, length = lags_of(rows, width), rows.length
    point = solve(lags, num_train, ridge, is_scaled=ridge > 0 or width > num_train)
    mean_error, residuals = lags.mean_head(point)
    response = np.linalg.inv(np.eye(length) - point.jacobian)
    limit = mean_error + float((response @ point.jacobian @ residuals)[0])
    pairs, rows_of_lags = _pairs(point.kernel), num_train * length
    fixed = lags.residual_pairs(point, pairs)
    paired, previous = fixed, math.nan
    for _ in range(_MAX_STEPS):
        paired_source = lags.traces(lags.around(point.resolvent, paired)) / rows_of_lags
        distances = response @ (point.jacobian @ residuals + paired_source)
        excess = mean_error + float(distances[0])
        if not math.isfinite(excess) or excess < 0:
            break
        if abs(excess - previous) <= _TOLERANCE * excess:
            return abs(excess / limit - 1 - usual) if limit > 0 else 0.0
        previous = excess
        sandwich = point.kernel @ linalg.toeplitz(residuals + distances) @ point.kernel
        middle = lags.weighted(diagonal_sums(sandwich)) + paired
        deviation = lags.around(point.resolvent, middle) / rows_of_lags
        paired = fixed + lags.deviation_pairs(deviation, pairs)
    return math.inf


def _pairs(kernel: Float64[ndarray, "T T"]) -> Float64[ndarray, "L L"]:
    """k_ab, a two-dimensional autocorrelation."""
    shape = (2 * len(kernel) - 1, 2 * len(kernel) - 1)
    spectrum = np.fft.rfft2(kernel, shape)
    correlation = np.fft.fftshift(np.fft.irfft2(spectrum * spectrum.conj(), shape))
    pairs: Float64[ndarray, "L L"] = correlation[:, ::-1]
    return pairs
