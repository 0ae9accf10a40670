import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import linalg

from lab.core.errors import InputError
from lab.core.heads.asymptotics import asymptotic_risk
from lab.core.heads.factor_population import FactorPopulation
from lab.core.heads.population import ModePopulation
from lab.core.hmm.linear_gaussian import LinearGaussianHmm, unit_variance_noise
from lab.core.hmm.random_models import (
    gaussian_loading,
    general_transition,
    orthogonal_transition,
    symmetric_transition,
)
from lab.experiments.hmm_risk.dependent_rows.asymptotic import dependent_risk
from lab.experiments.hmm_risk.dependent_rows.exact import dependent_risk_given_features
from lab.experiments.hmm_risk.dependent_rows.mode_rows import ModeTokenRows
from lab.experiments.hmm_risk.dependent_rows.token_rows import HmmTokenRows
from reference.gaussian_sequences import draw_sequences

# An independent implementation's figures, printed to four digits: modes with decay from 0.05 to a, risk per output.
# n, T, p/n, a, observation noise, dependent theory, independent theory
TABLE = [
    (200, 10, 0.2, 0.9, 0.5, 0.2301, 0.1922),
    (200, 10, 0.5, 0.9, 0.5, 0.9711, 0.7704),
    (200, 50, 0.5, 0.9, 0.5, 1.003, 0.7704),
    (200, 10, 0.8, 0.9, 0.5, 3.790, 3.083),
    (200, 10, 1.5, 0.9, 0.5, 1.932, 1.618),
    (200, 50, 2.0, 0.9, 0.5, 1.0679, 0.8855),
    (200, 50, 0.5, 0.9, 0.001, 1.165, 0.713),
    (400, 20, 1.5, 0.95, 0.3, 2.158, 1.514),
    (400, 20, 3.0, 0.95, 0.3, 0.7215, 0.5486),
]


def mode_rows(num_modes, length, *, highest=0.9, observation_noise=0.5):
    return ModeTokenRows(np.linspace(0.05, highest, num_modes), observation_noise, length)


def hmm_of(transition, num_features, *, observation_noise=0.5, seed=3, loading=None):
    state_dim = transition.shape[0]
    is_normal = np.allclose(transition @ transition.T, transition.T @ transition)
    return LinearGaussianHmm.stationary(
        transition,
        gaussian_loading(num_features, state_dim, np.random.default_rng(seed)) if loading is None else loading,
        state_noise_covariance=unit_variance_noise(transition) if is_normal else 0.36 * np.eye(state_dim),
        observation_noise=observation_noise,
    )


def draw_features(hmm, num_train, length, rng):
    sample = draw_sequences(hmm, num_train // length, length, rng)
    return sample.tokens.reshape(num_train, -1)


@pytest.mark.parametrize("row", TABLE)
def test_independent_modes_have_the_tabulated_risk(row):
    num_train, length, gamma, highest, noise, dependent, independent = row
    width = round(gamma * num_train)
    rows = mode_rows(width, length, highest=highest, observation_noise=noise)
    # half a unit of the last digit printed
    assert dependent_risk(rows, width, num_train=num_train).excess / width == pytest.approx(dependent, rel=6e-4)
    rows = mode_rows(width, 1, highest=highest, observation_noise=noise)
    assert dependent_risk(rows, width, num_train=num_train).excess / width == pytest.approx(independent, rel=6e-4)


@pytest.mark.parametrize("ridge", [0.0, 1e-6, 0.1, 10.0])
@pytest.mark.parametrize("width", [3, 30, 79, 81, 200])
def test_one_token_a_sequence_gives_the_form_of_the_effective_ridge(width, ridge):
    num_train, state_dim = 80, 6
    hmm = hmm_of(general_transition(state_dim, 0.8, np.random.default_rng(0)), 200)
    stationary = hmm.initial_covariance
    factors = FactorPopulation(
        loading=hmm.loading,
        latent_covariance=stationary,
        noise_variance=0.25,
        cross=stationary @ hmm.transition.T,
        target_variances=np.diag(stationary),
    )
    decay = np.linspace(0.05, 0.9, 200)
    modes = ModePopulation(np.full(200, 1.25), (decay / 1.25) ** 2, np.ones(200))
    for rows, population in ((HmmTokenRows(hmm, 1), factors), (ModeTokenRows(decay, 0.5, 1), modes)):
        risk = dependent_risk(rows, width, num_train=num_train, ridge=ridge)
        noise_trace = population.noise_trace(width)
        expected = asymptotic_risk(population.spectrum(width), noise_trace, num_train=num_train, ridge=ridge)
        # the equations are solved to 1e-11 of phi, and next to p = n the risk is some p/|n - p| = 80 times as sensitive
        assert risk.noise_trace == pytest.approx(noise_trace, rel=1e-11)
        assert risk.variance == pytest.approx(expected.variance, rel=1e-8)
        assert risk.bias == pytest.approx(expected.bias, rel=1e-8, abs=1e-8 * expected.variance)


@pytest.mark.parametrize("width", [6, 24, 36])
@pytest.mark.parametrize("kind", ["real", "planes"])
def test_general_and_diagonal_forms_agree(kind, width):
    # the same process twice: as modes, and as a hidden Markov model in rotated coordinates of the state
    if kind == "real":
        decay = np.linspace(-0.4, 0.95, width)
        rows, transition = ModeTokenRows(decay, 0.6, 5), np.diag(decay)
    else:
        angle = np.linspace(0.1, 3.0, width // 2)
        cosines, sines = np.cos(angle), np.sin(angle)
        transition = 0.9 * linalg.block_diag(*np.array([[cosines, -sines], [sines, cosines]]).transpose(2, 0, 1))
        rows = ModeTokenRows(np.full(width, 0.9), 0.6, 5, angle=angle)
    turn = orthogonal_transition(width, 0.5, np.random.default_rng(2)) / 0.5
    hmm = hmm_of(turn @ transition @ turn.T, width, observation_noise=0.6, loading=turn.T)
    for ridge in (0.0, 0.2):
        one = dependent_risk(rows, width, num_train=30, ridge=ridge)
        other = dependent_risk(HmmTokenRows(hmm, 5), width, num_train=30, ridge=ridge)
        assert one.bias == pytest.approx(other.bias, rel=1e-8)
        assert one.variance == pytest.approx(other.variance, rel=1e-8)
        assert one.noise_trace == pytest.approx(other.noise_trace, rel=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("width", [4, 20, 50])
def test_reduced_equations_are_those_of_full_matrices(width):
    # every matrix written out, p x p and T x T, a small ridge, and plain damped iteration
    num_train, length, ridge = 30, 3, 1e-3
    hmm = hmm_of(general_transition(6, 0.9, np.random.default_rng(1)), width)
    stationary, loading = hmm.initial_covariance, hmm.loading

    def state_covariance(lag):
        power = np.linalg.matrix_power(hmm.transition, abs(lag)) @ stationary
        return power if lag >= 0 else power.T

    def covariance(lag):
        return loading @ state_covariance(lag) @ loading.T + (0.25 * np.eye(width) if lag == 0 else 0)

    times = range(length)
    resolvent = np.eye(width) / ridge
    for _ in range(1000):
        phi = np.array([[np.trace(covariance(t - s) @ resolvent) for s in times] for t in times]) / num_train
        kernel = np.linalg.inv(np.eye(length) + phi)
        weighted = sum(kernel[t, s] * covariance(t - s) for t in times for s in times) / length
        resolvent = (resolvent + np.linalg.inv(ridge * np.eye(width) + weighted)) / 2
    cross = {lag: loading @ state_covariance(lag - 1) for lag in range(-length, length)}
    head = resolvent @ sum(kernel[t, s] * cross[t - s] for t in times for s in times) / length
    best = np.linalg.solve(covariance(0), cross[0])
    residual = np.array(
        [
            [
                np.trace(state_covariance(t - s))
                - np.sum(head * cross[t - s])
                - np.sum(head * cross[s - t])
                + np.sum(head * (covariance(t - s) @ head))
                for s in times
            ]
            for t in times
        ]
    )
    products = np.zeros((length, length, length))
    for lag in times:
        middle = (covariance(lag) + covariance(-lag)) / 2
        psi = [[np.trace(covariance(t - s) @ resolvent @ middle @ resolvent) for s in times] for t in times]
        products[lag] = kernel @ np.array(psi) @ kernel / (length * num_train)
    deviation = np.zeros(length)
    for _ in range(1000):
        distances = deviation[np.abs(np.subtract.outer(times, times))]
        deviation = np.array([np.sum(products[lag] * (residual + distances)) for lag in times])
    error = head - best
    excess = np.sum(error * (covariance(0) @ error)) + deviation[0]
    rows = HmmTokenRows(hmm, length)
    risk = dependent_risk(rows, width, num_train=num_train, ridge=ridge)
    # the iteration shrinks errors at least by 0.98 a step, and the matrices have condition numbers of 1e4 at most
    assert risk.excess == pytest.approx(excess, rel=1e-6)
    joint_noise = rows.sequence_noise(width)
    deviation = np.zeros(length)
    for _ in range(1000):
        distances = deviation[np.abs(np.subtract.outer(times, times))]
        deviation = np.array([np.sum(products[lag] * (joint_noise + distances)) for lag in times])
    assert risk.variance == pytest.approx(deviation[0], rel=1e-6)


def test_tokens_without_memory_are_independent_rows():
    decay = np.zeros(60)
    for width in (20, 60):
        one = dependent_risk(ModeTokenRows(decay, 0.5, 1), width, num_train=40)
        several = dependent_risk(ModeTokenRows(decay, 0.5, 8), width, num_train=40)
        assert several.excess == pytest.approx(one.excess, rel=1e-9)


@pytest.mark.parametrize("row", [TABLE[1], TABLE[3], pytest.param(TABLE[5], marks=pytest.mark.slow)])
def test_theory_of_modes_meets_exact_risks(row):
    num_train, length, gamma, highest, noise, _, independent = row
    width = round(gamma * num_train)
    rows = mode_rows(width, length, highest=highest, observation_noise=noise)
    hmm = hmm_of(np.diag(rows.decay), width, observation_noise=noise, loading=np.eye(width))
    rng = np.random.default_rng(11)
    draws = [
        dependent_risk_given_features(rows, draw_features(hmm, num_train, length, rng), [width]) for _ in range(20)
    ]
    risk = dependent_risk(rows, width, num_train=num_train)
    # the limit is low by some 1/|n - p| at finite n, as it is for independent rows: 2.5 % at p = 160, n = 200
    margin = 1 / abs(num_train - width)
    for name in ("bias", "variance", "excess"):
        values = np.array([getattr(draw, name)[0] for draw in draws])
        spread = 3 * values.std() / np.sqrt(len(values)) / values.mean()
        assert values.mean() / getattr(risk, name) == pytest.approx(1 + margin / 2, abs=margin + spread)
    assert risk.excess / width > 1.15 * independent


def transitions(kind, rng):
    if kind == "symmetric":
        return symmetric_transition(40, 0.95, rng, lowest_eigenvalue=0.3)
    return orthogonal_transition(40, 0.9, rng) if kind == "orthogonal" else general_transition(40, 0.9, rng)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["symmetric", "orthogonal", "general"])
def test_theory_of_fixed_states_meets_exact_risks(kind):
    rng = np.random.default_rng(12)
    num_train, length, widths = 200, 10, [40, 300]
    hmm = hmm_of(transitions(kind, rng), 300)
    rows = HmmTokenRows(hmm, length)
    risks = np.array(
        [
            dependent_risk_given_features(rows, draw_features(hmm, num_train, length, rng), widths).excess
            for _ in range(30)
        ]
    )
    measured = risks.mean(axis=0)
    # 30 replicates have a standard error of 0.4 to 0.8 %
    dependent, independent = (
        [dependent_risk(law, width, num_train=num_train).excess for width in widths]
        for law in (rows, HmmTokenRows(hmm, 1))
    )
    np.testing.assert_allclose(measured, dependent, rtol=0.04)
    if kind == "symmetric":
        assert measured[0] > 1.14 * independent[0]
    else:
        np.testing.assert_allclose(measured, independent, rtol=0.04)


@pytest.mark.slow
@pytest.mark.parametrize("row", TABLE)
def test_theory_of_modes_meets_exact_risks_within_four_per_cent(row):
    num_train, length, gamma, highest, noise, _, _ = row
    width = round(gamma * num_train)
    rows = mode_rows(width, length, highest=highest, observation_noise=noise)
    hmm = hmm_of(np.diag(rows.decay), width, observation_noise=noise, loading=np.eye(width))
    rng = np.random.default_rng(13)
    draws = [
        dependent_risk_given_features(rows, draw_features(hmm, num_train, length, rng), [width]).excess[0]
        for _ in range(50)
    ]
    assert np.mean(draws) == pytest.approx(dependent_risk(rows, width, num_train=num_train).excess, rel=0.04)


@settings(deadline=None, max_examples=60)
@given(
    length=st.integers(1, 8),
    num_sequences=st.integers(1, 8),
    num_modes=st.integers(1, 40),
    highest=st.floats(-0.99, 0.999),
    noise=st.floats(-4, 2).map(lambda exponent: 10.0**exponent),
    ridge=st.one_of(st.just(0.0), st.floats(-12, 4).map(lambda exponent: 10.0**exponent)),
)
def test_risk_is_found_wherever_it_exists(length, num_sequences, num_modes, highest, noise, ridge):
    rows = ModeTokenRows(np.linspace(min(0.05, highest), highest, num_modes), noise, length)
    num_train = num_sequences * length
    risk = dependent_risk(rows, num_modes, num_train=num_train, ridge=ridge)
    if ridge == 0 and num_modes == num_train:
        assert math.isinf(risk.excess)
        return
    assert math.isfinite(risk.excess)
    assert risk.variance >= 0
    # for one token a sequence the bias below p = n is 0 up to the accuracy of the fixed point
    assert risk.bias >= -1e-8 * risk.excess


def test_a_large_ridge_leaves_the_null_risk():
    rows = mode_rows(40, 6)
    signal = float(np.sum(rows.decay**2)) / rows.noise_variance
    assert dependent_risk(rows, 40, num_train=60, ridge=1e9).excess == pytest.approx(signal, rel=1e-6)


@pytest.mark.slow
def test_ridge_theory_meets_exact_risks_at_the_threshold():
    rows = mode_rows(120, 10)
    hmm = hmm_of(np.diag(rows.decay), 120, loading=np.eye(120))
    rng = np.random.default_rng(14)
    draws = [dependent_risk_given_features(rows, draw_features(hmm, 120, 10, rng), [120], ridge=0.3) for _ in range(30)]
    risk = dependent_risk(rows, 120, num_train=120, ridge=0.3)
    # a ridge leaves no peak: the standard error is 0.4 %
    assert np.mean([draw.bias for draw in draws]) == pytest.approx(risk.bias, rel=0.015)
    assert np.mean([draw.variance for draw in draws]) == pytest.approx(risk.variance, rel=0.015)


def test_the_minimum_norm_head_of_as_many_features_as_rows_has_infinite_risk():
    risk = dependent_risk(mode_rows(90, 6), 60, num_train=60)
    assert math.isinf(risk.bias)
    assert math.isinf(risk.variance)


def test_there_is_no_theory_of_rows_with_different_distributions():
    hmm = LinearGaussianHmm(0.5 * np.eye(2), np.eye(2), np.eye(2), 0.1, np.eye(2))
    with pytest.raises(InputError, match=r"hmm\.initial_covariance is not stationary"):
        dependent_risk(HmmTokenRows(hmm, 4), 2, num_train=8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"width": 41, "num_train": 60}, "width=41 must be from 1 to 40"),
        ({"width": 20, "num_train": 61}, "num_train=61 must be whole sequences of 6"),
        ({"width": 20, "num_train": 0}, "num_train=0"),
        ({"width": 20, "num_train": 60, "ridge": -0.1}, "ridge=-0.1"),
        ({"width": 20, "num_train": 60, "ridge": math.nan}, "ridge"),
    ],
)
def test_bad_input_is_named(arguments, message):
    with pytest.raises(InputError, match=message):
        dependent_risk(mode_rows(40, 6), **arguments)
