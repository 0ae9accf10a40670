"""The Kalman filter and smoother against conditioning of the joint Gaussian law, written out."""

import numpy as np
import pytest

from lab.core.errors import InputError
from lab.core.hmm.kalman import KalmanFilter
from lab.core.hmm.linear_gaussian import LinearGaussianHmm, unit_variance_noise
from lab.core.hmm.random_models import gaussian_loading, general_transition, orthogonal_transition
from reference.gaussian_sequences import draw_sequences

LENGTH, NUM_SEQUENCES = 5, 4


def make_hmm(state_dim, num_features, *, start="other", observation_noise=0.5):
    rng = np.random.default_rng(0)
    transition = general_transition(state_dim, 0.9, rng)
    root = rng.standard_normal((state_dim, state_dim))
    loading = gaussian_loading(num_features, state_dim, rng)
    noise = root @ root.T / state_dim
    if start == "stationary":
        return LinearGaussianHmm.stationary(
            transition, loading, state_noise_covariance=noise, observation_noise=observation_noise
        )
    # a first state that is known in all but one direction
    initial = {"identity": np.eye(state_dim), "other": np.outer(root[0], root[0])}[start]
    return LinearGaussianHmm(transition, loading, noise, observation_noise, initial)


def joint_law(hmm, length=LENGTH):
    """Covariance of (z_1 .. z_{T+1}) and the matrix that reads the tokens x_1 .. x_T off them."""
    size = hmm.state_dim
    states = np.zeros(((length + 1) * size, (length + 1) * size))
    law = hmm.initial_covariance
    for s in range(length + 1):
        block = law
        for t in range(s, length + 1):
            states[t * size : (t + 1) * size, s * size : (s + 1) * size] = block
            states[s * size : (s + 1) * size, t * size : (t + 1) * size] = block.T
            block = hmm.transition @ block
        law = hmm.transition @ law @ hmm.transition.T + hmm.state_noise_covariance
    return states, np.kron(np.eye(length, length + 1), hmm.loading)


def conditioned(hmm, tokens, num_seen):
    """E and Cov of all states given the first tokens; means [N, T+1, q], covariance [T+1, q, T+1, q]."""
    states, see = joint_law(hmm, tokens.shape[1])
    see = see[: num_seen * hmm.num_features]
    seen = see @ states @ see.T + hmm.observation_noise**2 * np.eye(see.shape[0])
    gain = np.linalg.solve(seen, see @ states).T
    means = tokens[:, :num_seen].reshape(tokens.shape[0], -1) @ gain.T
    size = hmm.state_dim
    shape = (tokens.shape[1] + 1, size)
    return means.reshape(-1, *shape), (states - gain @ see @ states).reshape(*shape, *shape)


def draw(hmm, length=LENGTH, num_sequences=NUM_SEQUENCES):
    rng = np.random.default_rng(1)
    return draw_sequences(hmm, num_sequences, length, rng).tokens


# p < q, p = q, p > q; one of each
SIZES = [(4, 2), (3, 3), (2, 7), (1, 1)]
every_hmm = pytest.mark.parametrize("start", ["stationary", "identity", "other"])
every_size = pytest.mark.parametrize(("state_dim", "num_features"), SIZES)


@every_hmm
@every_size
def test_filter_equals_conditioning_of_the_joint_gaussian_law(state_dim, num_features, start):
    hmm = make_hmm(state_dim, num_features, start=start)
    tokens = draw(hmm)
    longest = KalmanFilter(hmm, LENGTH)
    for t in range(1, LENGTH + 1):
        kalman = KalmanFilter(hmm, t)
        means, covariance = conditioned(hmm, tokens, t)
        np.testing.assert_allclose(kalman.last_state(tokens[:, :t]), means[:, t - 1], atol=1e-10)
        np.testing.assert_allclose(longest.filtered_covariance(t), covariance[t - 1, :, t - 1], atol=1e-10)


@every_hmm
@every_size
def test_smoother_equals_conditioning_of_the_joint_gaussian_law(state_dim, num_features, start):
    hmm = make_hmm(state_dim, num_features, start=start)
    tokens = draw(hmm)
    kalman = KalmanFilter(hmm, LENGTH)
    means, covariance = conditioned(hmm, tokens, LENGTH)
    np.testing.assert_allclose(kalman.smooth(tokens), means, atol=1e-10)
    np.testing.assert_allclose(kalman.smoothed_covariance(), covariance.transpose(0, 2, 1, 3), atol=1e-10)


def test_prediction_errors_of_simulated_states_have_the_stated_trace():
    hmm = make_hmm(3, 4)
    rng = np.random.default_rng(2)
    sample = draw_sequences(hmm, 5000, 8, rng)
    kalman = KalmanFilter(hmm, 8)
    errors = np.sum((kalman.smooth(sample.tokens)[:, -1] - sample.states[:, -1]) ** 2, axis=1)
    expected = np.trace(kalman.smoothed_covariance()[-1, -1])
    assert abs(errors.mean() - expected) < 4 * errors.std() / np.sqrt(5000)


def test_without_noise_as_many_features_as_states_give_the_state():
    hmm = make_hmm(3, 3, start="stationary", observation_noise=0.0)
    rng = np.random.default_rng(3)
    sample = draw_sequences(hmm, 6, LENGTH, rng)
    kalman = KalmanFilter(hmm, LENGTH)
    np.testing.assert_allclose(kalman.last_state(sample.tokens), sample.states[:, -2], atol=1e-10)
    np.testing.assert_allclose(kalman.filtered_covariance(LENGTH), 0.0, atol=1e-12)


def test_without_noise_fewer_features_than_states_are_filtered_too():
    hmm = make_hmm(4, 2, start="stationary", observation_noise=0.0)
    tokens = draw(hmm)
    means, _ = conditioned(hmm, tokens, LENGTH)
    np.testing.assert_allclose(KalmanFilter(hmm, LENGTH).last_state(tokens), means[:, LENGTH - 1], atol=1e-9)


def test_a_thousand_tokens_reach_the_stationary_gain():
    transition = orthogonal_transition(6, 0.99, np.random.default_rng(4))
    hmm = LinearGaussianHmm(
        transition, gaussian_loading(3, 6, np.random.default_rng(5)), unit_variance_noise(transition), 0.1, np.eye(6)
    )
    kalman = KalmanFilter(hmm, 1000)
    np.testing.assert_allclose(kalman.filtered_covariance(1000), kalman.filtered_covariance(900), atol=1e-12)
    last = transition @ kalman.filtered_covariance(1000) @ transition.T + hmm.state_noise_covariance
    assert np.linalg.eigvalsh(last).min() > 0
    # the Riccati equation, with the textbook's update
    gain = last @ hmm.loading.T @ np.linalg.inv(hmm.loading @ last @ hmm.loading.T + 0.01 * np.eye(3))
    following = transition @ (last - gain @ hmm.loading @ last) @ transition.T + hmm.state_noise_covariance
    np.testing.assert_allclose(following, last, atol=1e-12)
    assert np.isfinite(kalman.last_state(draw(hmm, length=1000))).all()


def test_a_width_beyond_the_state_costs_nothing_in_accuracy():
    # 200 features of 3 entries: the reference inverts a matrix of condition number 1e6 or so
    hmm = make_hmm(3, 200, start="identity", observation_noise=0.05)
    tokens = draw(hmm, length=2)
    means, _ = conditioned(hmm, tokens, 2)
    np.testing.assert_allclose(KalmanFilter(hmm, 2).last_state(tokens), means[:, 1], atol=1e-9)


def test_redundant_features_are_fine_with_noise():
    loading = np.array([[1.0, 2.0], [1.0, 2.0], [2.0, 4.0]])
    hmm = LinearGaussianHmm(orthogonal_transition(2, 0.9, np.random.default_rng(0)), loading, np.eye(2), 0.3, np.eye(2))
    tokens = draw(hmm)
    means, _ = conditioned(hmm, tokens, LENGTH)
    np.testing.assert_allclose(KalmanFilter(hmm, LENGTH).smooth(tokens), means, atol=1e-10)


def test_read_only_strided_and_float32_tokens_work_and_stay_as_they_are():
    hmm = make_hmm(3, 4)
    tokens = draw(hmm)
    expected = KalmanFilter(hmm, LENGTH).last_state(tokens)
    strided = np.asfortranarray(np.repeat(tokens, 2, axis=0))[::2]
    strided.flags.writeable = False
    np.testing.assert_allclose(KalmanFilter(hmm, LENGTH).last_state(strided), expected, atol=1e-12)
    np.testing.assert_array_equal(strided, tokens)
    single = KalmanFilter(hmm, LENGTH).last_state(tokens.astype(np.float32))
    assert single.dtype == np.float64
    np.testing.assert_allclose(single, expected, atol=1e-5)


def noiseless(loading, *, state_noise=1.0):
    size = len(loading[0])
    transition = orthogonal_transition(size, 0.5, np.random.default_rng(0))
    return LinearGaussianHmm(transition, loading, state_noise * np.eye(size), 0.0, np.eye(size))


TOKENS = np.ones((2, LENGTH, 4))


@pytest.mark.wrong_shapes
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: KalmanFilter(make_hmm(3, 4), 0), "length=0 must be a whole number of 1 or more; raise it"),
        (
            lambda: KalmanFilter(make_hmm(3, 4), LENGTH).last_state(TOKENS[:, :, :3]),
            r"tokens has shape \(2, 5, 3\) but must",
        ),
        (lambda: KalmanFilter(make_hmm(3, 4), LENGTH).smooth(TOKENS[:, :4]), r"tokens has shape \(2, 4, 4\) but must"),
        (lambda: KalmanFilter(make_hmm(3, 4), LENGTH).smooth(TOKENS * np.nan), r"tokens\[0, 0, 0\]=nan must be finite"),
        (lambda: KalmanFilter(make_hmm(3, 4), LENGTH).last_state(TOKENS * 1j), "tokens has dtype complex128 but must"),
        (lambda: KalmanFilter(make_hmm(3, 4), LENGTH).filtered_covariance(6), "time=6 must be at most 5; build"),
        (lambda: KalmanFilter(make_hmm(3, 4), LENGTH).filtered_covariance(0), "time=0 must be a whole number"),
        # equal rows: the second says nothing, and rounding must not pass for its variance
        (
            lambda: KalmanFilter(noiseless([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]]), 2),
            "observation_noise=0 leaves the covariance of token 1 given the earlier ones singular; give a positive",
        ),
        # without any noise two tokens tell the state, and the third is known
        (
            lambda: KalmanFilter(noiseless([[1.0, 0.0]], state_noise=0.0), 6),
            "observation_noise=0 leaves the covariance of token 3 given the earlier ones singular; give a positive",
        ),
    ],
)
def test_what_cannot_be_filtered_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()
