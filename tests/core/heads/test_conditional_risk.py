"""The exact risk of a head given its training features, against heads that are fitted and tested."""

import numpy as np
import pytest

from lab.core.errors import InputError
from lab.core.heads.conditional_risk import ConditionalRisk, conditional_risk
from lab.core.heads.factor_population import FactorPopulation
from lab.core.heads.linear_head import LinearHead, monte_carlo_risk
from lab.core.hmm.kalman import KalmanFilter
from lab.core.hmm.linear_gaussian import LinearGaussianHmm
from lab.core.hmm.random_models import gaussian_loading, symmetric_transition
from reference.gaussian_sequences import draw_sequences

RTOL = 1e-12


def pieces(num_features, *, state_dim=4, noise=0.6, seed=6):
    """A well-specified problem of factors: Sigma, B and Sigma_e, written out."""
    rng = np.random.default_rng(seed)
    hmm = LinearGaussianHmm.stationary(
        symmetric_transition(state_dim, 0.9, rng, lowest_eigenvalue=0.3),
        gaussian_loading(num_features, state_dim, rng),
        state_noise_covariance=0.4 * np.eye(state_dim),
        observation_noise=noise,
    )
    state = hmm.initial_covariance
    covariance = hmm.loading @ state @ hmm.loading.T + noise**2 * np.eye(num_features)
    coefficients = np.linalg.solve(covariance, hmm.loading @ state @ hmm.transition.T)
    left = state - coefficients.T @ covariance @ coefficients
    return hmm, covariance, coefficients, (left + left.T) / 2


def redundant(features):
    """Features with copies and sums of others, as a map of what they are made of."""
    num = features
    mapping = np.zeros((num + 6, num))
    mapping[:num] = np.eye(num)
    mapping[num : num + 3, :3] = 2 * np.eye(3)
    mapping[num + 3 :, :2] = 1.0
    return mapping


@pytest.mark.slow
@pytest.mark.parametrize("ridge", [0.0, 0.02])
@pytest.mark.parametrize("width", [5, 12, 18, 24, 40, 80])
def test_risk_is_the_mean_test_error_of_heads_fitted_to_redrawn_targets(width, ridge):
    # n = 20: three widths on each side of p = n
    _, covariance, coefficients, noise = pieces(width)
    check_against_simulation(np.eye(width), covariance, coefficients, noise, ridge)


@pytest.mark.parametrize("ridge", [0.0, 0.02])
@pytest.mark.parametrize("num_free", [8, 40])
def test_risk_of_rank_deficient_features_is_the_mean_test_error(num_free, ridge):
    _, covariance, coefficients, noise = pieces(num_free)
    check_against_simulation(redundant(num_free), covariance, coefficients, noise, ridge)


def check_against_simulation(mapping, covariance, coefficients, noise, ridge, num_rows=20, num_draws=300):
    """E[test error | features] by drawing targets and test rows, within three standard errors."""
    rng = np.random.default_rng(7)
    root, noise_root = np.linalg.cholesky(covariance), np.linalg.cholesky(noise)

    def rows(count):
        return rng.standard_normal((count, covariance.shape[0])) @ root.T

    def targets(latent):
        return latent @ coefficients + rng.standard_normal((latent.shape[0], noise.shape[0])) @ noise_root.T

    latent = rows(num_rows)
    features = latent @ mapping.T
    # with redundant features many B predict alike: this one has least norm
    full_coefficients = np.linalg.pinv(mapping).T @ coefficients
    risk = conditional_risk(
        features,
        mapping @ covariance @ mapping.T,
        full_coefficients,
        noise_trace=float(np.trace(noise)),
        ridge=ridge,
        rtol=RTOL,
    )
    assert risk.rank == min(num_rows, mapping.shape[1])
    errors, norms = [], []
    for _ in range(num_draws):
        head = LinearHead.fit(features, targets(latent), ridge=ridge, rtol=RTOL)
        test = rows(100)
        errors.append(monte_carlo_risk(head, test @ mapping.T, targets(test)).mean)
        norms.append(head.weight_norm**2)
    for found, expected in ((errors, risk.excess + np.trace(noise)), (norms, risk.squared_weight_norm)):
        standard_error = np.std(found) / np.sqrt(num_draws)
        assert abs(np.mean(found) - expected) < 3 * standard_error, (np.mean(found), expected, standard_error)


@pytest.mark.slow
@pytest.mark.parametrize("width", [6, 15, 24, 45, 80])
def test_risk_of_several_tokens_a_sequence_is_the_mean_test_error(width):
    # 5 sequences of 6 tokens: n = 30. The noise of a sequence's rows is correlated, and its mean is not a linear
    # function of the row alone: the smoother knows both.
    num_sequences, length = 5, 6
    hmm, covariance, coefficients, noise = pieces(width)
    kalman = KalmanFilter(hmm, length)
    joint = kalman.smoothed_covariance()
    block = np.trace(joint[1:, 1:], axis1=2, axis2=3)
    rng = np.random.default_rng(8)
    differences, biases = [], []
    for _ in range(300):
        sample = draw_sequences(hmm, num_sequences, length, rng)
        features = sample.tokens.reshape(-1, width)
        means = kalman.smooth(sample.tokens)[:, 1:].reshape(features.shape[0], -1)
        risk = conditional_risk(
            features, covariance, coefficients, block_noise=block, mean_targets=means, ridge=0.0, rtol=RTOL
        )
        head = LinearHead.fit(features, sample.states[:, 1:].reshape(means.shape), ridge=0.0, rtol=RTOL)
        test = draw_sequences(hmm, 200, 1, rng)
        tested = monte_carlo_risk(head, test.tokens[:, 0], test.states[:, 1])
        differences.append(tested.mean - risk.excess - np.trace(noise))
        biases.append(risk.bias)
    assert abs(np.mean(differences)) < 3 * np.std(differences) / np.sqrt(len(differences))
    # not zero below the threshold, as it would be for independent rows
    assert min(biases) > 0.005 * np.mean(biases) > 0


def test_bias_below_the_threshold_is_zero_to_rounding():
    _, covariance, coefficients, _ = pieces(12)
    features = np.random.default_rng(9).standard_normal((40, 12)) @ np.linalg.cholesky(covariance).T
    risk = conditional_risk(features, covariance, coefficients, noise_trace=1.0, ridge=0.0, rtol=RTOL)
    assert 0 <= risk.bias < 1e-27


@pytest.mark.parametrize("ridge", [0.0, 0.1])
@pytest.mark.parametrize("width", [6, 40])
def test_descriptions_of_the_same_noise_give_the_same_risk(width, ridge):
    _, covariance, coefficients, _ = pieces(width)
    features = np.random.default_rng(10).standard_normal((20, width))

    def risk(**noise):
        return conditional_risk(features, covariance, coefficients, ridge=ridge, rtol=RTOL, **noise)

    expected = risk(noise_trace=0.7)
    same = [
        risk(row_noise=np.full(20, 0.7)),
        risk(block_noise=0.7 * np.eye(5)),
        risk(noise_trace=0.7, mean_targets=features @ coefficients),
    ]
    for other in same:
        assert isinstance(other, ConditionalRisk)
        assert other.variance == pytest.approx(expected.variance, rel=1e-11)
        assert other.bias == pytest.approx(expected.bias, rel=1e-9, abs=1e-24)
        assert other.squared_weight_norm == pytest.approx(expected.squared_weight_norm, rel=1e-11)


def test_uneven_and_correlated_noise_enter_by_the_covariance_of_the_rows():
    _, covariance, coefficients, _ = pieces(6)
    rng = np.random.default_rng(11)
    features = rng.standard_normal((20, 6))
    inverse = np.linalg.pinv(features)
    per_row = rng.random(20)
    root = rng.standard_normal((4, 4))
    for noise, full in (
        ({"row_noise": per_row}, np.diag(per_row)),
        ({"block_noise": root @ root.T}, np.kron(np.eye(5), root @ root.T)),
    ):
        risk = conditional_risk(features, covariance, coefficients, ridge=0.0, rtol=RTOL, **noise)
        assert risk.variance == pytest.approx(np.trace(covariance @ inverse @ full @ inverse.T), rel=1e-11)


def test_risk_is_invariant_under_rotation_of_the_features():
    _, covariance, coefficients, _ = pieces(30)
    rng = np.random.default_rng(12)
    features = rng.standard_normal((20, 30))
    rotation, _ = np.linalg.qr(rng.standard_normal((30, 30)))
    options = {"noise_trace": 0.5, "ridge": 0.0, "rtol": RTOL}
    plain = conditional_risk(features, covariance, coefficients, **options)
    turned = conditional_risk(
        features @ rotation, rotation.T @ covariance @ rotation, rotation.T @ coefficients, **options
    )
    assert (turned.bias, turned.variance) == pytest.approx((plain.bias, plain.variance), rel=1e-10)


def test_closed_form_is_the_one_of_the_population():
    hmm, covariance, coefficients, noise = pieces(10)
    state = hmm.initial_covariance
    population = FactorPopulation(hmm.loading, state, 0.36, state @ hmm.transition.T, np.diag(state))
    assert population.noise_trace(10) == pytest.approx(np.trace(noise), rel=1e-11)
    sigma, best = population.dense(10)
    np.testing.assert_allclose(sigma, covariance, rtol=1e-12)
    np.testing.assert_allclose(best @ best.T, coefficients @ coefficients.T, atol=1e-13)


def test_read_only_and_strided_features_work_and_stay_as_they_are():
    features, targets = np.random.default_rng(3).standard_normal((24, 9)), np.ones((12, 2))
    strided = np.asfortranarray(features)[::2, ::3]
    for array in (strided, targets):
        array.flags.writeable = False
    options = {"noise_trace": 1.0, "mean_targets": targets, "ridge": 0.0, "rtol": RTOL}
    found = conditional_risk(strided, np.eye(3), np.ones((3, 2)), **options)
    expected = conditional_risk(features[::2, ::3].copy(), np.eye(3), np.ones((3, 2)), **options)
    assert found.excess == pytest.approx(expected.excess, rel=1e-12)
    np.testing.assert_array_equal(strided, features[::2, ::3])


X = np.random.default_rng(13).standard_normal((6, 3))
SIGMA, B = np.eye(3), np.ones((3, 2))
GOOD = {"noise_trace": 1.0, "ridge": 0.0, "rtol": RTOL}


@pytest.mark.wrong_shapes
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: conditional_risk(X, np.eye(2), B, **GOOD),
            r"covariance has shape \(2, 2\) but must have shape \(3, 3",
        ),
        (
            lambda: conditional_risk(X, SIGMA, B[:2], **GOOD),
            r"coefficients has shape \(2, 2\) but must have .* \(3, any",
        ),
        (lambda: conditional_risk(X, SIGMA, B, **GOOD | {"ridge": -1}), "ridge=-1 must not be negative"),
        (lambda: conditional_risk(X, SIGMA, B, **GOOD | {"noise_trace": -1}), "noise_trace=-1 must not be negative"),
        (lambda: conditional_risk(X, SIGMA, B, **GOOD, row_noise=np.ones(6)), "give exactly one of noise_trace, row"),
        (lambda: conditional_risk(X, SIGMA, B, ridge=0.0, rtol=RTOL), "give exactly one of noise_trace, row_noise"),
        (
            lambda: conditional_risk(X, SIGMA, B, row_noise=np.ones(5), ridge=0.0, rtol=RTOL),
            r"row_noise has shape \(5,\) but must have shape \(6,\)",
        ),
        (
            lambda: conditional_risk(X, SIGMA, B, row_noise=np.arange(6.0) - 2, ridge=0.0, rtol=RTOL),
            r"row_noise\[0\]=-2 is a negative variance; give 0 or more",
        ),
        (
            lambda: conditional_risk(X, SIGMA, B, block_noise=np.eye(4), ridge=0.0, rtol=RTOL),
            "sequences of 4 rows, which do not divide 6 rows; give whole sequences",
        ),
        (
            lambda: conditional_risk(X, SIGMA, B, block_noise=-np.eye(3), ridge=0.0, rtol=RTOL),
            "block_noise has the eigenvalue -1 but must be positive semi-definite",
        ),
        (
            lambda: conditional_risk(X, SIGMA, B, **GOOD, mean_targets=np.ones((6, 3))),
            r"mean_targets has shape \(6, 3\) but must have shape \(6, 2\)",
        ),
    ],
)
def test_bad_input_is_named_in_one_line(call, message):
    with pytest.raises(InputError, match=message) as refused:
        call()
    assert "\n" not in str(refused.value)
