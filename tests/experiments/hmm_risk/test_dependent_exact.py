from dataclasses import replace

import numpy as np
import pytest

from lab.core.errors import InputError
from lab.core.heads.factor_population import FactorPopulation
from lab.core.heads.population import ModePopulation
from lab.core.hmm.linear_gaussian import LinearGaussianHmm
from lab.core.hmm.random_models import gaussian_loading, general_transition
from lab.experiments.hmm_risk.dependent_rows.exact import dependent_risk_given_features
from lab.experiments.hmm_risk.dependent_rows.mode_rows import ModeTokenRows
from lab.experiments.hmm_risk.dependent_rows.token_rows import HmmTokenRows
from reference.gaussian_sequences import draw_sequences

# longer than a quick test may take
pytestmark = pytest.mark.slow

NUM_SEQUENCES, LENGTH = 3, 4
NUM_ROWS = NUM_SEQUENCES * LENGTH
# both sides of p = n = 12, p = n itself, and beyond the state dimension on both sides
WIDTHS = [2, 4, 8, 12, 14, 30]


def small_hmm(*, observation_noise=0.7, num_features=30, state_dim=5):
    rng = np.random.default_rng(5)
    return LinearGaussianHmm.stationary(
        general_transition(state_dim, 0.85, rng),
        gaussian_loading(num_features, state_dim, rng),
        state_noise_covariance=np.diag(np.linspace(0.2, 1.0, state_dim)),
        observation_noise=observation_noise,
    )


REAL_DECAYS = np.linspace(-0.6, 0.9, 30)
PLANE_DECAYS, PLANE_ANGLES = np.repeat(np.linspace(0.95, 0.3, 15), 2), np.linspace(0.1, 3.0, 15)


def case(name, length=LENGTH):
    """The rows, and for every width the HMM and the readout that define them."""
    if name == "next state":
        hmm = small_hmm()
        return HmmTokenRows(hmm, length), lambda width: (hmm, np.eye(5))
    if name == "next token":
        hmm = small_hmm()
        return HmmTokenRows(hmm, length, predicts_token=True), lambda width: (hmm, None)
    if name.startswith("other start"):
        hmm = replace(small_hmm(), initial_covariance=np.diag([9.0, 4.0, 1.0, 0.1, 0.0]))
        is_token = name.endswith("token")
        readout = None if is_token else np.eye(5)
        return HmmTokenRows(hmm, length, predicts_token=is_token), lambda width: (hmm, readout)
    if name == "real modes":
        matrix = np.diag(REAL_DECAYS)
        rows = ModeTokenRows(REAL_DECAYS, 0.7, length)
    else:
        matrix = np.zeros((30, 30))
        for plane, angle in enumerate(PLANE_ANGLES):
            cosine, sine = PLANE_DECAYS[2 * plane] * np.cos(angle), PLANE_DECAYS[2 * plane] * np.sin(angle)
            matrix[2 * plane : 2 * plane + 2, 2 * plane : 2 * plane + 2] = [[cosine, -sine], [sine, cosine]]
        rows = ModeTokenRows(PLANE_DECAYS, 0.7, length, angle=PLANE_ANGLES)

    def modes(width):
        transition = matrix[:width, :width]
        noise = np.eye(width) - transition @ transition.T
        hmm = LinearGaussianHmm.stationary(
            transition, np.eye(width), state_noise_covariance=noise, observation_noise=0.7
        )
        return hmm, np.eye(width)

    return rows, modes


CASES = ["next state", "next token", "other start", "other start, token", "real modes", "planes"]


def joint_law(hmm, readout, width, length):
    """Covariances of one sequence: tokens, targets with tokens, and targets; next tokens without a readout."""
    loading, size = hmm.loading[:width], hmm.state_dim
    states = np.zeros(((length + 1) * size, (length + 1) * size))
    for t in range(length + 1):
        for s in range(t + 1):
            block = np.linalg.matrix_power(hmm.transition, t - s) @ hmm.state_covariance(s + 1)
            states[t * size : (t + 1) * size, s * size : (s + 1) * size] = block
            states[s * size : (s + 1) * size, t * size : (t + 1) * size] = block.T
    if readout is None:
        see = np.kron(np.eye(length + 1), loading)
        every = see @ states @ see.T + hmm.observation_noise**2 * np.eye((length + 1) * width)
        return every[:-width, :-width], every[width:, :-width], every[width:, width:]
    see = np.kron(np.eye(length, length + 1), loading)
    read = np.kron(np.eye(length, length + 1, 1), readout)
    tokens = see @ states @ see.T + hmm.observation_noise**2 * np.eye(length * width)
    return tokens, read @ states @ see.T, read @ states @ read.T


def conditional_law(hmm, readout, width, features, length=LENGTH):
    """M, and the covariance of one sequence's targets, by conditioning the joint Gaussian law."""
    tokens, cross, targets = joint_law(hmm, readout, width, length)
    gain = np.linalg.solve(tokens, cross.T).T
    means = features[:, :width].reshape(-1, length * width) @ gain.T
    return means.reshape(features.shape[0], -1), targets - gain @ cross.T


def head_map(features, ridge):
    if ridge == 0:
        return np.linalg.pinv(features)
    gram = features.T @ features + features.shape[0] * ridge * np.eye(features.shape[1])
    return np.linalg.solve(gram, features.T)


def second_moments(hmm, readout, width):
    """Of one row, which is any of the rows of a sequence."""
    tokens, cross, _ = joint_law(hmm, readout, width, LENGTH)
    num_outputs = width if readout is None else readout.shape[0]
    covariance = np.einsum("tatb->ab", tokens.reshape(LENGTH, width, LENGTH, width)) / LENGTH
    pooled = np.einsum("tjta->aj", cross.reshape(LENGTH, num_outputs, LENGTH, width)) / LENGTH
    return covariance, np.linalg.solve(covariance, pooled)


def draw_features(hmm, seed=7, num_sequences=NUM_SEQUENCES, length=LENGTH):
    rng = np.random.default_rng(seed)
    sample = draw_sequences(hmm, num_sequences, length, rng)
    return sample.tokens.reshape(num_sequences * length, -1)


@pytest.mark.parametrize("ridge", [0.0, 0.05])
@pytest.mark.parametrize("name", CASES)
def test_risk_equals_conditioning_of_the_joint_gaussian_law(name, ridge):
    rows, definition = case(name)
    features = draw_features(definition(30)[0])
    risk = dependent_risk_given_features(rows, features, WIDTHS, ridge=ridge)
    for w, width in enumerate(WIDTHS):
        hmm, readout = definition(width)
        means, noise = conditional_law(hmm, readout, width, features)
        covariance, coefficients = second_moments(hmm, readout, width)
        inverse = head_map(features[:, :width], ridge)
        error = inverse @ means - coefficients
        num_outputs = width if readout is None else readout.shape[0]
        trace = np.einsum("tjsj->ts", noise.reshape(LENGTH, num_outputs, LENGTH, num_outputs))
        full_noise = np.kron(np.eye(NUM_SEQUENCES), trace)
        # 1e-9: two float64 routes through matrices of condition number up to some 1e4 (p = n)
        assert risk.bias[w] == pytest.approx(np.trace(error.T @ covariance @ error), rel=1e-9)
        assert risk.variance[w] == pytest.approx(np.trace(covariance @ inverse @ full_noise @ inverse.T), rel=1e-9)
        norm = np.sum((inverse @ means) ** 2) + np.trace(inverse @ full_noise @ inverse.T)
        assert risk.squared_weight_norm[w] == pytest.approx(norm, rel=1e-9)


@pytest.mark.parametrize(
    ("name", "width"),
    [("next state", w) for w in (3, 8, 14, 30)]
    + [("next token", 8), ("next token", 20), ("other start", 8), ("planes", 4), ("planes", 20)],
)
def test_risk_is_the_mean_over_redrawn_targets(name, width):
    rows, definition = case(name)
    hmm, readout = definition(width)
    features = draw_features(definition(30)[0])
    means, noise = conditional_law(hmm, readout, width, features)
    covariance, coefficients = second_moments(hmm, readout, width)
    root = np.linalg.cholesky(noise + 1e-12 * np.eye(noise.shape[0]))
    rng = np.random.default_rng(8)
    risks = []
    for _ in range(2000):
        drawn = rng.standard_normal((NUM_SEQUENCES, noise.shape[0])) @ root.T
        fitted = np.linalg.lstsq(features[:, :width], means + drawn.reshape(means.shape), rcond=None)[0]
        error = fitted - coefficients
        risks.append(np.sum(error * (covariance @ error)))
    exact = dependent_risk_given_features(rows, features, [width]).excess[0]
    assert abs(np.mean(risks) - exact) < 3 * np.std(risks) / np.sqrt(len(risks))


@pytest.mark.parametrize("width", [6, 20, 34, 60])
def test_risk_is_that_of_heads_fitted_to_simulated_sequences(width):
    # nothing here knows of smoothing: states and tokens are simulated, the head fitted, its population risk taken
    hmm = small_hmm(num_features=60)
    rows, num_sequences, length = HmmTokenRows(hmm, 9), 3, 9
    covariance, coefficients = second_moments(hmm, np.eye(5), width)
    rng = np.random.default_rng(9)
    differences = []
    for _ in range(400):
        sample = draw_sequences(hmm, num_sequences, length, rng)
        features = sample.tokens.reshape(num_sequences * length, -1)
        targets = sample.states[:, 1:].reshape(num_sequences * length, -1)
        error = np.linalg.lstsq(features[:, :width], targets, rcond=None)[0] - coefficients
        exact = dependent_risk_given_features(rows, features, [width]).excess[0]
        differences.append(np.sum(error * (covariance @ error)) - exact)
    assert abs(np.mean(differences)) < 3 * np.std(differences) / np.sqrt(len(differences))


@pytest.mark.parametrize("ridge", [0.0, 0.05])
@pytest.mark.parametrize("name", ["next state", "real modes"])
def test_one_token_a_sequence_gives_the_formulas_of_independent_rows(name, ridge):
    rows, definition = case(name, length=1)
    if name == "next state":
        hmm = definition(30)[0]
        population = FactorPopulation(
            loading=hmm.loading,
            latent_covariance=hmm.initial_covariance,
            noise_variance=hmm.observation_noise**2,
            cross=hmm.initial_covariance @ hmm.transition.T,
            target_variances=np.diag(hmm.initial_covariance),
        )
    else:
        population = ModePopulation(np.full(30, 1.49), (REAL_DECAYS / 1.49) ** 2, np.ones(30))
    features = draw_features(definition(30)[0], num_sequences=NUM_ROWS, length=1)
    risk = dependent_risk_given_features(rows, features, WIDTHS, ridge=ridge)
    for w, width in enumerate(WIDTHS):
        covariance, coefficients = population.dense(width)
        inverse = head_map(features[:, :width], ridge)
        # B is known up to a rotation of the outputs, which no entry below depends on
        error = inverse @ (features[:, :width] @ coefficients) - coefficients
        bias = np.sum(error * (covariance @ error))
        variance = population.noise_trace(width) * np.sum(inverse * (covariance @ inverse))
        assert rows.noise_trace(width) == pytest.approx(population.noise_trace(width), rel=1e-12)
        assert risk.variance[w] == pytest.approx(variance, rel=1e-9)
        if ridge == 0 and width <= NUM_ROWS:
            # rounding of the means, squared, times the norm of the inverse
            assert 0 <= risk.bias[w] < 1e-24
        else:
            assert risk.bias[w] == pytest.approx(bias, rel=1e-9)


@pytest.mark.parametrize("ridge", [0.0, 0.05])
def test_bias_is_positive_below_the_threshold_when_tokens_are_dependent(ridge):
    rows, definition = case("real modes")
    risk = dependent_risk_given_features(rows, draw_features(definition(30)[0]), [4, 8], ridge=ridge)
    assert np.all(risk.bias > 0.1 * risk.variance)


@pytest.mark.parametrize("width", [4, 8, 30])
def test_modes_are_a_hidden_markov_model_of_their_own_at_every_width(width):
    for name in ("real modes", "planes"):
        rows, definition = case(name)
        features = draw_features(definition(30)[0])
        hmm, _ = definition(width)
        one = dependent_risk_given_features(rows, features, [width])
        other = dependent_risk_given_features(HmmTokenRows(hmm, LENGTH), features[:, :width], [width])
        np.testing.assert_allclose(one.bias, other.bias, rtol=1e-9)
        np.testing.assert_allclose(one.variance, other.variance, rtol=1e-9)
        np.testing.assert_allclose(rows.coefficients(width), HmmTokenRows(hmm, LENGTH).coefficients(width), atol=1e-13)


@pytest.mark.parametrize("ridge", [0.0, 1e-14])
def test_nearly_redundant_features_lose_no_digits_above_the_threshold(ridge):
    # the Gram matrix has condition number 1e12 or so; through it alone about five digits are left
    hmm = small_hmm(observation_noise=1e-5)
    rows, features = HmmTokenRows(hmm, LENGTH), draw_features(hmm)
    risk = dependent_risk_given_features(rows, features, [20], ridge=ridge)
    # Sigma^-1 written out has a condition number of 1e10 itself: the reference takes the factored form, checked above
    coefficients, factor = rows.coefficients(20), rows.factor(20)
    left, singular, right = np.linalg.svd(features[:, :20], full_matrices=False)
    inverse = (right.T * (singular / (singular**2 + NUM_ROWS * ridge))) @ left.T
    (targets,) = rows.expected_targets(features, [20])
    error = inverse @ targets.given_sequence - coefficients
    noise = np.kron(np.eye(NUM_SEQUENCES), rows.sequence_noise(20))
    seen = np.vstack([factor.T, 1e-5 * np.eye(20)])
    assert risk.bias[0] == pytest.approx(np.sum((seen @ error) ** 2), rel=1e-8)
    assert risk.variance[0] == pytest.approx(np.trace(seen @ inverse @ noise @ inverse.T @ seen.T), rel=1e-8)


def test_widths_do_not_depend_on_each_other():
    rows, definition = case("planes")
    features = draw_features(definition(30)[0])
    together = dependent_risk_given_features(rows, features, WIDTHS)
    for w, width in enumerate(WIDTHS):
        alone = dependent_risk_given_features(rows, features[:, :width], [width])
        # nested widths share a decomposition: equal up to rounding
        assert together.excess[w] == pytest.approx(alone.excess[0], rel=1e-9)


def test_read_only_and_strided_features_work_and_stay_as_they_are():
    rows, definition = case("next state")
    features = draw_features(definition(30)[0])
    expected = dependent_risk_given_features(rows, features, WIDTHS)
    strided = np.asfortranarray(np.repeat(features, 2, axis=0))[::2]
    strided.flags.writeable = False
    result = dependent_risk_given_features(rows, strided, WIDTHS)
    np.testing.assert_allclose(result.excess, expected.excess, rtol=1e-9)
    np.testing.assert_array_equal(strided, features)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda f: dependent_risk_given_features(case("planes")[0], f[:-1], [4]), "features has 11 rows; give whole"),
        (lambda f: dependent_risk_given_features(case("planes")[0], f, [8, 4]), r"widths=\[8, 4\] must ascend"),
        (lambda f: dependent_risk_given_features(case("planes")[0], f, []), r"widths=\[\] must ascend"),
        (lambda f: dependent_risk_given_features(case("planes")[0], f, [31]), "widths contains 31"),
        (lambda f: dependent_risk_given_features(case("planes")[0], f, [4, 7]), "width=7 .* even width"),
        (lambda f: dependent_risk_given_features(case("real modes")[0], f, [0, 7]), "width=0 must be from 1 to 30"),
        (lambda f: dependent_risk_given_features(case("real modes")[0], f, [4], ridge=-1.0), "ridge=-1"),
        (lambda f: dependent_risk_given_features(case("real modes")[0], f * np.nan, [4]), r"features\[0, 0\]=nan"),
        (lambda f: HmmTokenRows(small_hmm(observation_noise=0.0), 4), "observation_noise=0 leaves redundant features"),
        (lambda f: HmmTokenRows(small_hmm(), 0), "length=0"),
        (lambda f: ModeTokenRows(np.array([0.5, 1.0]), 0.5, 4), "decay"),
        (lambda f: ModeTokenRows(np.array([0.5]), 0.0, 4), "observation_noise=0"),
        (lambda f: ModeTokenRows(np.array([0.5, 0.4]), 0.5, 4, angle=np.ones(1)), "twice for every plane"),
        (lambda f: ModeTokenRows(np.array([0.5, 0.5]), 0.5, 4, angle=np.ones(2)), "angle has shape"),
    ],
)
def test_bad_input_is_named(build, message):
    with pytest.raises(InputError, match=message):
        build(draw_features(small_hmm()))
