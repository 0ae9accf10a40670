"""The theory of dependent rows is given where it is right, and only there."""

import numpy as np
import pytest

from drawn import one_in
from lab.core.hmm.linear_gaussian import LinearGaussianHmm, unit_variance_noise
from lab.core.hmm.random_models import gaussian_loading, general_transition, symmetric_transition
from lab.experiments.hmm_risk.dependent_rows.asymptotic import dependent_risk, optimal_dependent_ridge
from lab.experiments.hmm_risk.dependent_rows.exact import dependent_risk_given_features
from lab.experiments.hmm_risk.dependent_rows.finite_size import LARGEST_CORRECTION, first_correction
from lab.experiments.hmm_risk.dependent_rows.mode_rows import ModeTokenRows
from lab.experiments.hmm_risk.dependent_rows.token_rows import HmmTokenRows
from reference.gaussian_sequences import draw_sequences

NUM_TRAIN = 200


def slow_hmm(state_dim: int, num_features: int) -> LinearGaussianHmm:
    """A state of slow modes alone."""
    rng = np.random.default_rng(0)
    transition = symmetric_transition(state_dim, 0.99, rng, lowest_eigenvalue=0.95)
    return hmm_of(transition, num_features, rng)


def hmm_of(transition: np.ndarray, num_features: int, rng: np.random.Generator) -> LinearGaussianHmm:
    is_normal = np.allclose(transition @ transition.T, transition.T @ transition)
    return LinearGaussianHmm.stationary(
        transition,
        gaussian_loading(num_features, transition.shape[0], rng),
        state_noise_covariance=unit_variance_noise(transition) if is_normal else 0.36 * np.eye(transition.shape[0]),
        observation_noise=0.5,
    )


def measured(rows: HmmTokenRows, width: int, replicates: int, ridge: float = 0.0) -> tuple[float, float]:
    """Mean exact risk, and its standard error."""
    rng = np.random.default_rng(1)
    risks = []
    for _ in range(replicates):
        tokens = draw_sequences(rows.hmm, NUM_TRAIN // rows.length, rows.length, rng).tokens
        features = tokens.reshape(NUM_TRAIN, -1)[:, :width]
        risks.append(dependent_risk_given_features(rows, features, [width], ridge=ridge).excess[0])
    return float(np.mean(risks)), float(np.std(risks) / np.sqrt(replicates))


@pytest.mark.parametrize("width", [1, 20, 60, 190])
def test_independent_rows_have_no_correction_but_their_own(width: int) -> None:
    # with it, the equations give the exact mean tr Sigma_e p/(n - p - 1)
    for predicts_token in (False, True):
        rows = HmmTokenRows(slow_hmm(3, 190), 1, predicts_token=predicts_token)
        assert first_correction(rows, width, num_train=NUM_TRAIN) < 1e-4


@pytest.mark.parametrize("predicts_token", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_small_slow_state_is_refused_because_theory_is_wrong_there(predicts_token: bool) -> None:
    rows = HmmTokenRows(slow_hmm(1, 2), 50, predicts_token=predicts_token)
    assert first_correction(rows, 2, num_train=NUM_TRAIN) > LARGEST_CORRECTION
    mean, error = measured(rows, 2, 40)
    assert mean - 2 * error > 1.1 * dependent_risk(rows, 2, num_train=NUM_TRAIN).excess


def test_modes_and_states_have_the_same_correction() -> None:
    angle = np.linspace(0.1, 3.0, 4)
    blocks = [0.9 * np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]) for a in angle]
    transition = np.zeros((8, 8))
    for plane, block in enumerate(blocks):
        transition[2 * plane : 2 * plane + 2, 2 * plane : 2 * plane + 2] = block
    hmm = LinearGaussianHmm.stationary(
        transition, np.eye(8), state_noise_covariance=unit_variance_noise(transition), observation_noise=0.5
    )
    for ridge in (0.0, 0.1):
        one = first_correction(HmmTokenRows(hmm, 5), 8, num_train=40, ridge=ridge)
        other = first_correction(ModeTokenRows(np.full(8, 0.9), 0.5, 5, angle=angle), 8, num_train=40, ridge=ridge)
        assert one == pytest.approx(other, abs=1e-5)
        assert one > 1e-4


# q, T, p: where theory is given beside states as small as these, and where it is refused
GRID = [(q, length, width) for q in (1, 2, 5) for length in (20, 50, 100) for width in (q, 20, 50, 100, 300)]


@pytest.mark.slow
@pytest.mark.parametrize(("state_dim", "length", "width"), one_in(5, GRID, of="finite size"))
def test_theory_that_is_given_is_within_five_per_cent(state_dim: int, length: int, width: int) -> None:
    rows = HmmTokenRows(slow_hmm(state_dim, width), length)
    if first_correction(rows, width, num_train=NUM_TRAIN) > LARGEST_CORRECTION:
        assert width < 300 or state_dim == 5
        return
    assert width > state_dim
    mean, error = measured(rows, width, 100)
    assert dependent_risk(rows, width, num_train=NUM_TRAIN).excess == pytest.approx(mean, abs=0.05 * mean + 2 * error)


@pytest.mark.slow
@pytest.mark.parametrize("ridge", [0.0, 0.1])
@pytest.mark.parametrize("width", [40, 100, 300])
@pytest.mark.parametrize("kind", ["symmetric", "general"])
def test_theory_of_the_next_token_is_within_four_per_cent(kind: str, width: int, ridge: float) -> None:
    rng = np.random.default_rng(2)
    transition = (
        symmetric_transition(50, 0.9, rng, lowest_eigenvalue=0.05)
        if kind == "symmetric"
        else general_transition(50, 0.9, rng)
    )
    rows = HmmTokenRows(hmm_of(transition, width, rng), 10, predicts_token=True)
    assert first_correction(rows, width, num_train=NUM_TRAIN, ridge=ridge) < LARGEST_CORRECTION
    mean, _ = measured(rows, width, 20, ridge)
    assert dependent_risk(rows, width, num_train=NUM_TRAIN, ridge=ridge).excess == pytest.approx(mean, rel=0.04)


@pytest.mark.parametrize("width", [30, pytest.param(150, marks=pytest.mark.slow)])
def test_the_best_ridge_is_no_worse_than_its_neighbours(width: int) -> None:
    rows = HmmTokenRows(hmm_of(general_transition(6, 0.9, np.random.default_rng(3)), 150, np.random.default_rng(3)), 4)
    best = optimal_dependent_ridge(rows, width, num_train=100)
    risk = dependent_risk(rows, width, num_train=100, ridge=best).excess
    for other in (0.0, 0.5 * best, 0.98 * best, 1.02 * best, 2 * best):
        assert risk <= dependent_risk(rows, width, num_train=100, ridge=other).excess * (1 + 1e-9)
