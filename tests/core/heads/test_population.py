"""Second moments of every population: its own summaries agree with its matrices, and those with what is simulated."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.core.heads.factor_population import FactorPopulation
from lab.core.heads.population import DensePopulation, DiagonalPopulation, ModePopulation
from lab.core.hmm.linear_gaussian import LinearGaussianHmm
from lab.core.hmm.random_models import gaussian_loading, general_transition
from reference.gaussian_sequences import draw_sequences

NUM_FEATURES, STATE_DIM = 9, 4


def hmm():
    rng = np.random.default_rng(0)
    return LinearGaussianHmm.stationary(
        general_transition(STATE_DIM, 0.8, rng),
        gaussian_loading(NUM_FEATURES, STATE_DIM, rng),
        state_noise_covariance=np.diag([0.3, 0.5, 0.7, 0.9]),
        observation_noise=0.6,
    )


def factors(task):
    model = hmm()
    state = model.initial_covariance
    moved = state @ model.transition.T
    if task == "next token":
        tokens = np.diag(model.loading @ state @ model.loading.T) + 0.36
        return FactorPopulation(model.loading, state, 0.36, moved @ model.loading.T, tokens, True)
    if task == "label":
        readout = np.array([[1.0, -2.0, 0.5, 0.0], [0.0, 1.0, 1.0, 1.0]])
        return FactorPopulation(model.loading, state, 0.36, state @ readout.T, np.diag(readout @ state @ readout.T))
    return FactorPopulation(model.loading, state, 0.36, moved, np.diag(state))


def law(name):
    """A population, E[x x'], E[x y'] and E[y_j^2] of the full model, and whether outputs follow the width."""
    rng = np.random.default_rng(1)
    if name in ("next state", "next token", "label"):
        population = factors(name)
        covariance = population.loading @ population.latent_covariance @ population.loading.T + 0.36 * np.eye(9)
        cross = population.loading @ population.cross
        return population, covariance, cross, population.target_variances, name == "next token"
    if name == "diagonal":
        variances, coefficients = rng.random(9) + 0.5, rng.standard_normal((9, 3))
        signal = np.sum(variances[:, None] * coefficients**2, axis=0)
        population = DiagonalPopulation(variances, coefficients, float(signal.sum()) + 0.6)
        return population, np.diag(variances), variances[:, None] * coefficients, signal + 0.2, False
    if name == "modes":
        # y_i = a_i z_i + noise and x_i = z_i + u_i, each of its own
        decay = np.linspace(0.9, 0.1, 9)
        population = ModePopulation(np.full(9, 1.25), (decay / 1.25) ** 2, np.ones(9))
        return population, 1.25 * np.eye(9), np.diag(decay), np.ones(9), True
    root = rng.standard_normal((9, 9))
    covariance, cross = root @ root.T + np.eye(9), rng.standard_normal((9, 2))
    return DensePopulation(covariance, cross, 40.0), covariance, cross, np.array([15.0, 25.0]), False


NAMES = ["next state", "next token", "label", "diagonal", "modes", "dense"]
WIDTHS = [1, 2, 3, 4, 5, 8, 9]
every_population = pytest.mark.parametrize("name", NAMES)
every_width = pytest.mark.parametrize("width", WIDTHS)


@every_population
@every_width
def test_best_head_and_noise_are_those_of_the_joint_law(name, width):
    population, covariance, cross, variances, follows = law(name)
    num_outputs = width if follows else cross.shape[1]
    sigma, cross = covariance[:width, :width], cross[:width, :num_outputs]
    best = np.linalg.solve(sigma, cross)
    assert population.num_features == NUM_FEATURES
    assert population.num_outputs(width) == num_outputs
    found_sigma, found_best = population.dense(width)
    np.testing.assert_allclose(found_sigma, sigma, rtol=1e-12, atol=1e-14)
    # B is known up to a rotation of the outputs
    np.testing.assert_allclose(found_best @ found_best.T, best @ best.T, rtol=1e-10, atol=1e-12)
    assert population.target_trace(width) == pytest.approx(variances[:num_outputs].sum())
    assert population.signal(width) == pytest.approx(np.sum(best * (sigma @ best)), rel=1e-11)
    assert population.squared_norm(width) == pytest.approx(np.sum(best**2), rel=1e-11)
    noise = variances[:num_outputs].sum() - np.sum(cross * best)
    assert population.noise_trace(width) == pytest.approx(noise, rel=1e-10)


@every_population
@every_width
def test_spectrum_is_that_of_the_matrices(name, width):
    population = law(name)[0]
    sigma, best = population.dense(width)
    spectrum = population.spectrum(width)
    np.testing.assert_allclose(np.sort(spectrum.eigenvalues), np.linalg.eigvalsh(sigma), rtol=1e-11)
    # sums that fix the pairing, also where eigenvalues are equal and eigenvectors free
    for power in (-1, 0, 1, 2):
        expected = np.trace(best.T @ np.linalg.matrix_power(sigma, power) @ best)
        found = np.sum(spectrum.eigenvalues**power * spectrum.squared_coefficients)
        assert found == pytest.approx(expected, rel=1e-10)


@every_population
def test_wider_models_explain_at_least_as_much_of_the_same_targets(name):
    population, *_, follows = law(name)
    if follows:
        return
    noise = [population.noise_trace(width) for width in range(1, NUM_FEATURES + 1)]
    assert (np.diff(noise) <= 1e-12).all()
    assert min(noise) > 0


@pytest.mark.parametrize("width", [1, 3, 4, 9])
def test_very_little_noise_costs_no_digits(width):
    model, state = hmm(), hmm().initial_covariance
    variances, cross = np.diag(state), state @ model.transition.T
    seen = model.loading[:width]
    # the limit without noise: the projection of the state on what the features tell
    limit = np.linalg.lstsq(seen @ state @ seen.T, seen @ cross, rcond=1e-9)[0] if width < 4 else None
    signal = np.sum((seen @ cross) * limit) if width < 4 else np.trace(model.transition @ cross)
    for noise in (1e-6, 1e-9):
        population = FactorPopulation(model.loading, state, noise**2, cross, variances)
        assert population.signal(width) == pytest.approx(signal, rel=1e-9)
        spectrum = population.spectrum(width)
        assert population.squared_norm(width) == pytest.approx(spectrum.squared_coefficients.sum(), rel=1e-9)
        assert spectrum.eigenvalues @ spectrum.squared_coefficients == pytest.approx(signal, rel=1e-9)


@pytest.mark.parametrize("task", ["next state", "next token"])
@pytest.mark.parametrize("width", [2, 9])
def test_noise_is_what_regression_on_a_large_sample_leaves(task, width):
    population, model, num = factors(task), hmm(), 60_000
    rng = np.random.default_rng(2)
    sample = draw_sequences(model, num, 2, rng)
    features = sample.tokens[:, 0, :width]
    targets = sample.tokens[:, 1, :width] if task == "next token" else sample.states[:, 1]
    residual = targets - features @ np.linalg.lstsq(features, targets, rcond=None)[0]
    squares = np.sum(residual**2, axis=1)
    # four standard errors; p fitted coefficients take p/n of the noise
    expected = population.noise_trace(width) * (1 - width / num)
    assert abs(squares.mean() - expected) < 4 * squares.std() / np.sqrt(num)


@given(num_outputs=st.integers(1, 12), seed=st.integers(0, 100))
def test_many_outputs_are_reduced_to_at_most_the_latent_dimension(num_outputs, seed):
    rng = np.random.default_rng(seed)
    cross = rng.standard_normal((STATE_DIM, num_outputs))
    model = hmm()
    population = FactorPopulation(model.loading, model.initial_covariance, 0.36, cross, np.full(num_outputs, 9.0))
    assert population.at(7).latent_coefficients.shape == (STATE_DIM, min(num_outputs, STATE_DIM))
    sigma, best = population.dense(7)
    full = np.linalg.solve(sigma, model.loading[:7] @ cross)
    np.testing.assert_allclose(best @ best.T, full @ full.T, atol=1e-11)
    assert population.num_outputs(7) == num_outputs


@pytest.mark.parametrize("name", ["next token", "dense"])
def test_what_a_width_needs_is_computed_once(name):
    population = law(name)[0]
    compute = population.at if isinstance(population, FactorPopulation) else population.coefficients
    assert compute(5) is compute(5)
    assert compute(5) is not compute(6)


@every_population
def test_nothing_that_was_handed_over_is_modified(name):
    population = law(name)[0]
    arrays = [value for value in vars(population).values() if isinstance(value, np.ndarray)]
    copies = [array.copy() for array in arrays]
    for array in arrays:
        array.flags.writeable = False
    for width in WIDTHS:
        population.signal(width), population.squared_norm(width), population.spectrum(width), population.dense(width)
    for array, copy in zip(arrays, copies, strict=True):
        np.testing.assert_array_equal(array, copy)
