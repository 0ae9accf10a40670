"""Covariances of the linear-Gaussian HMM against series and samples; draws that extend each other to the last bit."""

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.core.errors import InputError
from lab.core.hmm.linear_gaussian import LinearGaussianHmm, observe, stable_transition, unit_variance_noise
from lab.core.hmm.random_models import gaussian_loading, general_transition, orthogonal_transition, symmetric_transition
from reference.gaussian_sequences import draw_sequences


def rng(seed=0):
    return np.random.default_rng(seed)


def small_hmm(*, num_features=5, observation_noise=0.4, initial=None):
    transition = general_transition(3, 0.8, rng())
    loading = gaussian_loading(num_features, 3, rng(1))
    noise = np.diag([0.5, 0.2, 0.9])
    if initial is None:
        return LinearGaussianHmm.stationary(
            transition, loading, state_noise_covariance=noise, observation_noise=observation_noise
        )
    return LinearGaussianHmm(transition, loading, noise, observation_noise, initial)


@given(radius=st.floats(0.0, 0.95), seed=st.integers(0, 1000))
def test_stationary_covariance_is_the_sum_of_all_that_the_noise_has_left(radius, seed):
    transition = general_transition(4, radius, rng(seed))
    hmm = LinearGaussianHmm.stationary(
        transition, np.ones((1, 4)), state_noise_covariance=np.diag([1.0, 0.1, 2.0, 0.0]), observation_noise=0.1
    )
    expected = term = hmm.state_noise_covariance
    for _ in range(1000):
        term = transition @ term @ transition.T
        expected = expected + term
    np.testing.assert_allclose(hmm.initial_covariance, expected, rtol=1e-9, atol=1e-11 * np.abs(expected).max())
    assert hmm.is_stationary
    np.testing.assert_array_equal(hmm.state_covariance(50), hmm.initial_covariance)


def test_covariance_of_a_state_moves_from_the_first_to_the_stationary_one():
    hmm = small_hmm(initial=np.eye(3))
    assert not hmm.is_stationary
    expected = np.eye(3)
    for time in range(1, 6):
        np.testing.assert_allclose(hmm.state_covariance(time), expected, rtol=1e-13, atol=1e-15)
        expected = hmm.transition @ expected @ hmm.transition.T + hmm.state_noise_covariance
    np.testing.assert_allclose(hmm.state_covariance(300), small_hmm().initial_covariance, rtol=1e-11)


def test_a_scaled_rotation_keeps_the_identity():
    transition = orthogonal_transition(6, 0.8, rng())
    hmm = LinearGaussianHmm(transition, np.eye(6), unit_variance_noise(transition), 0.1, np.eye(6))
    np.testing.assert_allclose(hmm.state_noise_covariance, (1 - 0.64) * np.eye(6), atol=1e-14)
    assert hmm.is_stationary


@pytest.mark.parametrize("initial", [None, np.diag([0.0, 1.0, 4.0])])
def test_samples_have_the_stated_covariances(initial):
    hmm = small_hmm(initial=initial)
    num = 40_000
    sample = draw_sequences(hmm, num, 3, rng(2))
    assert sample.states.shape == (num, 4, 3)
    assert sample.tokens.shape == (num, 3, 5)

    def check(one, other, expected, one_law, other_law):
        # five standard errors of a product of Gaussians, entry by entry
        error = np.sqrt((np.outer(np.diag(one_law), np.diag(other_law)) + expected**2) / num)
        assert (np.abs(one.T @ other / num - expected) <= 5 * error + 1e-12).all()

    laws = [hmm.state_covariance(t + 1) for t in range(4)]
    for t in range(4):
        for s in range(t + 1):
            lagged = np.linalg.matrix_power(hmm.transition, t - s) @ laws[s]
            check(sample.states[:, t], sample.states[:, s], lagged, laws[t], laws[s])
    for t in range(3):
        token = hmm.loading @ laws[t] @ hmm.loading.T + 0.16 * np.eye(5)
        check(sample.tokens[:, t], sample.tokens[:, t], token, token, token)
        cross = hmm.loading @ laws[t] @ hmm.transition.T
        check(sample.tokens[:, t], sample.states[:, t + 1], cross, token, laws[t + 1])


def test_a_longer_draw_begins_with_the_shorter_one():
    hmm = small_hmm()
    long, short = hmm.sample_states(7, 9, rng(4)), hmm.sample_states(7, 4, rng(4))
    np.testing.assert_array_equal(long[:, :4], short)


@pytest.mark.parametrize("narrow", [1, 3, 127, 128, 129, 200])
def test_a_wider_model_repeats_the_features_of_a_narrower_one_to_the_last_bit(narrow):
    states = rng(5).standard_normal((6, 11, 3))
    loading = gaussian_loading(300, 3, rng(6))
    wide, few = observe(states, loading, 0.3, rng(7)), observe(states, loading[:narrow], 0.3, rng(7))
    np.testing.assert_array_equal(wide[..., :narrow], few)
    np.testing.assert_allclose(observe(states, loading, 0.0, rng(7)), states @ loading.T, rtol=1e-12, atol=1e-13)


def test_noise_levels_share_their_draws():
    states, loading = rng(5).standard_normal((4, 3)), gaussian_loading(6, 3, rng(6))
    clean = states @ loading.T
    one, two = (observe(states, loading, level, rng(8)) - clean for level in (0.5, 1.0))
    np.testing.assert_allclose(two, 2 * one, atol=1e-14)


def test_ints_float32_and_strided_arrays_give_the_same_hmm_and_stay_as_they_are():
    transition = np.diag([0.5, 0.25])
    wide = np.arange(24, dtype=np.int64).reshape(4, 6)
    loading = wide[::2, ::3]
    loading.flags.writeable = False
    hmm = LinearGaussianHmm.stationary(
        transition.astype(np.float32), loading, state_noise_covariance=np.eye(2, dtype=int), observation_noise=1
    )
    for array in (hmm.transition, hmm.loading, hmm.state_noise_covariance):
        assert array.dtype == np.float64
    states = hmm.sample_states(4, 3, rng())
    states.flags.writeable = False
    hmm.observe(states, rng())
    np.testing.assert_array_equal(loading, [[0, 3], [12, 15]])
    assert (hmm.state_dim, hmm.num_features) == (2, 2)


@pytest.mark.parametrize("family", [orthogonal_transition, symmetric_transition])
def test_unit_variance_noise_gives_unit_variance(family):
    transition = family(5, 0.9, rng())
    hmm = LinearGaussianHmm.stationary(
        transition, np.eye(5), state_noise_covariance=unit_variance_noise(transition), observation_noise=0.0
    )
    np.testing.assert_allclose(hmm.initial_covariance, np.eye(5), atol=1e-12)


def test_a_spectral_radius_next_to_one_is_warned_of():
    with pytest.warns(UserWarning, match=r"transition has spectral radius 0\.9995: .* less precise"):
        stable_transition("transition", 0.9995 * np.eye(2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stable_transition("transition", 0.998 * np.eye(2))


A, W, Q = 0.5 * np.eye(3), np.ones((4, 3)), np.eye(3)


def hmm(**changes):
    arguments = {
        "transition": A,
        "loading": W,
        "state_noise_covariance": Q,
        "observation_noise": 0.1,
        "initial_covariance": Q,
    }
    return LinearGaussianHmm(**arguments | changes)


def stationary(**changes):
    arguments = {"transition": A, "loading": W, "state_noise_covariance": Q, "observation_noise": 0.1}
    return LinearGaussianHmm.stationary(**arguments | changes)


COMMON = [
    ({"transition": np.ones((3, 2))}, r"transition has shape \(3, 2\) but must be square; give"),
    ({"transition": np.ones((0, 0))}, r"transition has shape \(0, 0\) but must be square; give"),
    ({"transition": A * np.nan}, r"transition\[0, 0\]=nan must be finite; remove"),
    ({"transition": A * 1j}, "transition has dtype complex128 but must be real; give its real part"),
    ({"loading": np.ones((4, 2))}, r"loading has shape \(4, 2\) but must have shape \(any, 3\); reshape it"),
    ({"loading": np.ones((0, 3))}, r"loading has shape \(0, 3\) but must have a row for each feature; give one"),
    ({"loading": W * np.inf}, r"loading\[0, 0\]=inf must be finite; remove"),
    ({"loading": [[1.0, 2.0, 3.0], [4.0]]}, "loading is ragged but must be an array of numbers; give rows of equal"),
    ({"state_noise_covariance": np.eye(2)}, r"state_noise_covariance has shape \(2, 2\) but must have shape \(3, 3\)"),
    ({"state_noise_covariance": -Q}, "state_noise_covariance has the eigenvalue -1 but must be positive semi-definite"),
    ({"state_noise_covariance": np.triu(np.ones((3, 3)))}, "state_noise_covariance differs from its transpose by 1 "),
    ({"observation_noise": -0.1}, r"observation_noise=-0\.1 must not be negative; give 0 or more"),
    ({"observation_noise": np.nan}, "observation_noise=nan must be finite"),
    ({"observation_noise": [0.1, 0.2]}, r"observation_noise has shape \(2,\) but must be one number; give a float"),
]


@pytest.mark.parametrize("build", [hmm, stationary])
@pytest.mark.parametrize(("changes", "message"), COMMON)
def test_an_hmm_that_has_no_law_is_refused_in_one_line(build, changes, message):
    with pytest.raises(InputError, match=message) as refused:
        build(**changes)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("transition", "message"),
    [
        (2 * A, r"transition has spectral radius 1 but must have one below 1.*; divide transition by 1\.01"),
        (np.array([[0, 2, 0], [-2, 0, 0], [0, 0, 0]]), "transition has spectral radius 2 .*; divide"),
    ],
)
def test_only_a_stated_start_needs_no_stationary_distribution(transition, message):
    with pytest.raises(InputError, match=message):
        stationary(transition=transition)
    explosive = hmm(transition=transition)
    assert not explosive.is_stationary
    expected = explosive.initial_covariance
    for _ in range(3):
        expected = transition @ expected @ transition.T + explosive.state_noise_covariance
    np.testing.assert_allclose(explosive.state_covariance(4), expected, rtol=1e-13)


@pytest.mark.wrong_shapes
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: hmm(initial_covariance=-Q), "initial_covariance has the eigenvalue -1 but must be positive semi"),
        (lambda: hmm(initial_covariance=np.eye(2)), r"initial_covariance has shape \(2, 2\) but must have shape"),
        (lambda: hmm().state_covariance(0), "time=0 must be a whole number of 1 or more; raise it"),
        (lambda: hmm().sample_states(0, 3, rng()), "num_sequences=0 must be a whole number of 1 or more"),
        (lambda: hmm().sample_states(3, 0, rng()), "length=0 must be a whole number of 1 or more"),
        (lambda: hmm().sample_states(3, 1.5, rng()), r"length=1\.5 must be a whole number"),
        (lambda: observe(np.ones((5, 2)), W, 0.1, rng()), r"loading has shape \(4, 3\) but must have shape \(any, 2\)"),
        (lambda: observe(np.ones((5, 3)), W, -1.0, rng()), "observation_noise=-1 must not be negative"),
        (
            lambda: unit_variance_noise(np.array([[0.0, 1.5], [0.0, 0.0]])),
            r"transition has the singular value 1\.5, .*; give a state_noise_covariance, or a normal transition",
        ),
    ],
)
def test_counts_and_arguments_out_of_range_are_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()
