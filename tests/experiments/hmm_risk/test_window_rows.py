"""Several rows a sequence whose features are windows, against the joint Gaussian law and against fitted heads."""

from dataclasses import replace

import numpy as np
import pytest

from lab.core.heads.asymptotics import asymptotic_risk
from lab.core.heads.factor_population import FactorPopulation
from lab.experiments.hmm_risk.config import (
    HmmRiskConfig,
    LinearGaussianConfig,
    RepresentationConfig,
    RepresentationName,
    Transition,
)
from lab.experiments.hmm_risk.dependent_rows.asymptotic import dependent_risk
from lab.experiments.hmm_risk.dependent_rows.exact import dependent_risk_given_features
from lab.experiments.hmm_risk.dependent_rows.finite_size import first_correction
from lab.experiments.hmm_risk.dependent_rows.token_rows import HmmTokenRows
from lab.experiments.hmm_risk.dependent_rows.window_rows import WindowTokenRows
from lab.experiments.hmm_risk.grid.expand import expand
from lab.experiments.hmm_risk.pool import build_problem, build_work
from lab.experiments.hmm_risk.problems.gaussian import WindowProblem

LENGTH, WINDOW, NUM_SEQUENCES, STATE_DIM = 4, 3, 3, 2
NUM_ROWS = LENGTH * NUM_SEQUENCES


def problem(widths: list[int]) -> WindowProblem:
    config = HmmRiskConfig(
        hmm=LinearGaussianConfig(state_dim=STATE_DIM, transition=Transition.symmetric, spectral_radius=0.9),
        representation=RepresentationConfig(name=RepresentationName.context_window, window=WINDOW),
        num_train=NUM_ROWS,
        tokens_per_sequence=LENGTH,
        widths=widths,
        observation_noise=0.6,
        figures=[],
    )
    (cell,) = expand(config)
    found = build_problem(cell)
    assert isinstance(found, WindowProblem)
    return found


def law(given: WindowProblem, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Covariances of all features of a sequence (row by row), of its targets with them, and of its targets."""
    hmm, num_tokens = given.hmm, LENGTH + WINDOW - 1
    states = np.block(
        [
            [np.linalg.matrix_power(hmm.transition, abs(t - s)) @ hmm.initial_covariance for s in range(num_tokens + 1)]
            for t in range(num_tokens + 1)
        ]
    )
    # every feature as a combination of states and of the noise of entries of tokens
    num_entries = hmm.num_features
    see = np.zeros((LENGTH * width, (num_tokens + 1) * STATE_DIM))
    noise = np.zeros((LENGTH * width, num_tokens * num_entries))
    for row in range(LENGTH):
        for feature in range(width):
            token, entry = row + WINDOW - 1 - feature % WINDOW, feature // WINDOW
            see[row * width + feature, token * STATE_DIM : (token + 1) * STATE_DIM] = hmm.loading[entry]
            noise[row * width + feature, token * num_entries + entry] = given.observation_noise
    read = np.kron(np.eye(LENGTH, num_tokens + 1, WINDOW), np.eye(STATE_DIM))
    return see @ states @ see.T + noise @ noise.T, read @ states @ see.T, read @ states @ read.T


@pytest.mark.parametrize("ridge", [0.0, 0.05])
@pytest.mark.parametrize("width", [1, 2, 3, 7, 8, 12, 13, 20])
def test_risk_equals_conditioning_of_the_joint_gaussian_law(width: int, ridge: float) -> None:
    given = problem([width])
    population = given.population
    assert isinstance(population, FactorPopulation)
    rows = WindowTokenRows(given.hmm, LENGTH, WINDOW, population)
    features = given.rows("train", 0, NUM_ROWS).features
    found = dependent_risk_given_features(rows, features, [width], ridge=ridge)
    seen, cross, targets = law(given, width)
    # tokens are in several rows, so that the law of the features is singular
    gain = cross @ np.linalg.pinv(seen, rcond=1e-11, hermitian=True)
    used = features[:, :width]
    means = (used.reshape(NUM_SEQUENCES, -1) @ gain.T).reshape(NUM_ROWS, STATE_DIM)
    left = (targets - gain @ cross.T).reshape(LENGTH, STATE_DIM, LENGTH, STATE_DIM)
    noise = np.kron(np.eye(NUM_SEQUENCES), np.einsum("tjsj->ts", left))
    sigma, best = seen[:width, :width], np.linalg.solve(seen[:width, :width], cross[:STATE_DIM, :width].T)
    if ridge:
        head_map = np.linalg.solve(used.T @ used + NUM_ROWS * ridge * np.eye(width), used.T)
    else:
        head_map = np.linalg.pinv(used)
    error = head_map @ means - best
    assert found.bias[0] == pytest.approx(np.sum(error * (sigma @ error)), rel=1e-8)
    assert found.variance[0] == pytest.approx(np.trace(sigma @ head_map @ noise @ head_map.T), rel=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("width", [6, 24])
def test_risk_is_that_of_heads_fitted_to_drawn_rows(width: int) -> None:
    given = problem([width])
    work = build_work(given.cell)
    population = given.population
    sigma, _ = population.dense(width)
    _, cross, _ = law(given, width)
    best = np.linalg.solve(sigma, cross[:STATE_DIM, :width].T)
    differences = []
    for replicate in range(300):
        rows = given.rows("train", replicate, NUM_ROWS)
        error = np.linalg.lstsq(rows.features[:, :width], rows.targets, rcond=None)[0] - best
        (measured,) = work.measure(replicate)
        exact = measured["bias"] + measured["variance"]  # type: ignore[typeddict-item]
        differences.append(np.sum(error * (sigma @ error)) / STATE_DIM - exact)
    assert abs(np.mean(differences)) < 3 * np.std(differences) / np.sqrt(len(differences))


@pytest.mark.parametrize("ridge", [0.0, 0.1])
@pytest.mark.parametrize("width", [4, 7, 19])
def test_theory_of_one_window_a_sequence_is_that_of_independent_rows(width: int, ridge: float) -> None:
    given = problem([20])
    population = given.population
    assert isinstance(population, FactorPopulation)
    rows = WindowTokenRows(given.hmm, 1, WINDOW, population)
    found = dependent_risk(rows, width, num_train=NUM_ROWS, ridge=ridge)
    noise_trace = population.noise_trace(width)
    expected = asymptotic_risk(population.spectrum(width), noise_trace, num_train=NUM_ROWS, ridge=ridge)
    assert found.variance == pytest.approx(expected.variance, rel=1e-7)
    assert found.bias == pytest.approx(expected.bias, rel=1e-7, abs=1e-7 * expected.variance)


@pytest.mark.parametrize("width", [4, 20])
def test_windows_of_one_token_are_tokens(width: int) -> None:
    given = problem([20])
    hmm = replace(given.hmm, loading=np.random.default_rng(0).standard_normal((20, STATE_DIM)))
    population = FactorPopulation(
        hmm.loading,
        hmm.initial_covariance,
        hmm.observation_noise**2,
        hmm.initial_covariance @ hmm.transition.T,
        np.diag(hmm.initial_covariance).copy(),
    )
    one, other = WindowTokenRows(hmm, LENGTH, 1, population), HmmTokenRows(hmm, LENGTH)
    for ridge in (0.0, 0.1):
        found, expected = (dependent_risk(rows, width, num_train=NUM_ROWS, ridge=ridge) for rows in (one, other))
        assert found.bias == pytest.approx(expected.bias, rel=1e-8)
        assert found.variance == pytest.approx(expected.variance, rel=1e-8)
        corrections = [first_correction(rows, width, num_train=NUM_ROWS, ridge=ridge) for rows in (one, other)]
        assert corrections[0] == pytest.approx(corrections[1], rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("ridge", [0.0, 0.1])
@pytest.mark.parametrize("width", [40, 100, 300])
def test_theory_of_windows_beside_a_large_state_is_within_four_per_cent(width: int, ridge: float) -> None:
    config = HmmRiskConfig(
        hmm=LinearGaussianConfig(state_dim=50, transition=Transition.symmetric, spectral_radius=0.9),
        representation=RepresentationConfig(name=RepresentationName.context_window, window=2),
        num_train=200,
        tokens_per_sequence=10,
        widths=[width],
        ridge=[ridge],
        figures=[],
    )
    work = build_work(*expand(config))
    (theory,) = work.theory()
    measured = [row for replicate in range(15) for row in work.measure(replicate)]
    mean = np.mean([row["bias"] + row["variance"] for row in measured])  # type: ignore[typeddict-item]
    assert theory["theory_excess_risk"] == pytest.approx(mean, rel=0.04)  # type: ignore[typeddict-item]
    # rows of one sequence matter
    assert theory["theory_independent_rows"] < 0.95 * mean  # type: ignore[typeddict-item]
