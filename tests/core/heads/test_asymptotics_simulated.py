import math

import numpy as np
import pytest

from lab.core.heads.asymptotics import asymptotic_risk, exact_risk
from lab.core.heads.factor_population import FactorPopulation
from lab.core.heads.population import DensePopulation, Spectrum

# longer than a quick test may take
pytestmark = pytest.mark.slow


def simulate(eigenvalues, coefficients, noise_trace, *, num_train, ridge, num_draws, seed):
    """Mean and standard error of the conditional bias and variance of ridge heads on Gaussian rows, from the SVD."""
    rng = np.random.default_rng(seed)
    draws = np.empty((num_draws, 2))
    for draw in draws:
        _, s, right = np.linalg.svd(
            rng.standard_normal((num_train, eigenvalues.size)) * np.sqrt(eigenvalues), full_matrices=False
        )
        shrink = s**2 / (s**2 + num_train * ridge)
        mean_head = right.T @ (shrink[:, None] * (right @ coefficients))
        draw[0] = np.sum(eigenvalues[:, None] * (mean_head - coefficients) ** 2)
        draw[1] = noise_trace * np.sum((shrink / s) ** 2 * (right**2 @ eigenvalues))
    return draws.mean(axis=0), draws.std(axis=0, ddof=1) / math.sqrt(num_draws)


def setting(width, decay, seed=0):
    rng = np.random.default_rng(seed)
    eigenvalues = np.arange(1, width + 1.0) ** -decay
    coefficients = rng.standard_normal((width, 3))
    return eigenvalues, coefficients, Spectrum(eigenvalues, np.sum(coefficients**2, axis=1))


@pytest.mark.parametrize(("width", "decay"), [(8, 1.0), (24, 2.0), (33, 0.0), (48, 0.0), (80, 0.0)])
def test_exact_line_is_the_mean_of_simulated_heads(width, decay):
    eigenvalues, coefficients, spectrum = setting(width, decay)
    risk = exact_risk(spectrum, 0.7, num_train=40)
    mean, error = simulate(eigenvalues, coefficients, 0.7, num_train=40, ridge=0.0, num_draws=1000, seed=1)
    assert risk is not None
    for name, expected, measured, standard_error in zip(
        ("bias", "variance"), (risk.bias, risk.variance), mean, error, strict=True
    ):
        # 1e-25: the bias of p < n is the square of rounding
        assert abs(measured - expected) <= 4 * standard_error + 1e-25, (name, measured, expected, standard_error)


@pytest.mark.parametrize("num_train", [40, pytest.param(160, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("gamma", "decay", "ridge"),
    [(0.5, 1.0, 0.0), (1.5, 1.0, 0.0), (2.5, 0.5, 0.0), (0.5, 1.0, 0.02), (1.0, 0.5, 0.05), (2.5, 2.0, 0.001)],
)
def test_asymptotic_risk_is_that_of_simulated_heads_up_to_the_finite_size(gamma, decay, ridge, num_train):
    eigenvalues, coefficients, spectrum = setting(round(gamma * num_train), decay)
    risk = asymptotic_risk(spectrum, 0.7, num_train=num_train, ridge=ridge)
    mean, error = simulate(
        eigenvalues, coefficients, 0.7, num_train=num_train, ridge=ridge, num_draws=8000 // num_train, seed=2
    )
    # the finite-size term falls as 1/n: 1/|n - p| without ridge for p < n, by the exact line
    finite_size = 3 / (num_train * (abs(1 - gamma) if ridge == 0 else 1))
    for name, expected, measured, standard_error in zip(
        ("bias", "variance"), (risk.bias, risk.variance), mean, error, strict=True
    ):
        allowed = 4 * standard_error + finite_size * expected
        assert abs(measured - expected) <= allowed + 1e-25, (name, measured, expected, standard_error)


def hidden_state_setting(width, family):
    """Next state of a stationary chain z' = A z + e seen through x = W z + u, A orthogonal times 0.8 or symmetric."""
    if family == "orthogonal":
        radii, noise_variance, state_variances = np.full(50, 0.8), 0.25, np.ones(50)
    else:
        radii = np.linspace(0.0, 0.95, 100)
        noise_variance, state_variances = 1.0, 1 / (1 - radii**2)
    loading = np.random.default_rng(4).standard_normal((width, radii.size)) / math.sqrt(radii.size)
    cross = np.diag(radii * state_variances)
    population = FactorPopulation(loading, np.diag(state_variances), noise_variance, cross, state_variances)
    covariance, coefficients = population.dense(width)
    eigenvalues, vectors = np.linalg.eigh(covariance)
    return eigenvalues, vectors.T @ coefficients, population.spectrum(width), population.noise_trace(width)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["orthogonal", "symmetric"])
@pytest.mark.parametrize(("gamma", "percent"), [(0.5, 2), (0.9, 4), (1.1, 4), (1.5, 2), (2.0, 2)])
def test_hidden_state_risk_of_400_rows_is_the_asymptotic_line(gamma, percent, family):
    eigenvalues, coefficients, spectrum, noise_trace = hidden_state_setting(round(gamma * 400), family)
    risk = asymptotic_risk(spectrum, noise_trace, num_train=400, ridge=0.0)
    draws = simulate(eigenvalues, coefficients, noise_trace, num_train=400, ridge=0.0, num_draws=50, seed=len(family))
    measured, error = draws[0].sum(), np.hypot(*draws[1])
    print(
        f"{family} gamma={gamma}: measured/theory - 1 = {measured / risk.excess - 1:+.4f} +- {error / risk.excess:.4f}"
    )
    # the finite size, 0.5 to 3 % at this n by the exact line for p < n, and one standard error, 0.6 % next to p = n
    assert abs(measured - risk.excess) <= percent / 100 * risk.excess + error, (measured / risk.excess - 1, error)


def test_rotated_features_and_several_outputs_are_read_from_the_population():
    rng = np.random.default_rng(3)
    rotation = np.linalg.qr(rng.standard_normal((90, 90)))[0]
    eigenvalues, coefficients, spectrum = setting(90, 1.0)
    covariance = (rotation * eigenvalues) @ rotation.T
    population = DensePopulation((covariance + covariance.T) / 2, covariance @ rotation @ coefficients, 100.0)
    rotated = asymptotic_risk(population.spectrum(90), 0.7, num_train=50, ridge=0.0)
    plain = asymptotic_risk(spectrum, 0.7, num_train=50, ridge=0.0)
    # 1e-10: rounding of a solve and an eigendecomposition with a condition number of 90
    assert rotated.bias == pytest.approx(plain.bias, rel=1e-10)
    assert rotated.variance == pytest.approx(plain.variance, rel=1e-10)


# 400 rows, 50 draws, SNR 5: the measured mean, and how far the asymptotic line was below it
MEASURED = [
    (40, 0.0223, 0.002),
    (200, 0.2011, 0.005),
    (360, 1.870, 0.039),
    (440, 2.125, 0.017),
    (600, 0.7353, 0.003),
    (800, 0.7017, 0.003),
    (1200, 0.7632, 0.005),
    (2000, 0.8508, 0.001),
    (3200, 0.9009, 0.003),
]


@pytest.mark.parametrize(("width", "measured", "gap"), MEASURED)
def test_isotropic_lines_pass_through_recorded_measurements(width, measured, gap):
    spectrum = Spectrum(np.ones(width), np.full(width, 1 / width))
    asymptotic = asymptotic_risk(spectrum, 0.2, num_train=400, ridge=0.0)
    exact = exact_risk(spectrum, 0.2, num_train=400)
    assert exact is not None
    # one unit of the last printed digit, 0.5 %, on top of the recorded gap; the spread of 50 draws for the exact line
    assert measured == pytest.approx(asymptotic.excess, rel=gap + 0.005)
    assert measured == pytest.approx(exact.excess, rel=0.015)
