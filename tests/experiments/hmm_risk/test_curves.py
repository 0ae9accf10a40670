import numpy as np
import pytest

from lab.core.errors import InputError
from lab.core.heads.asymptotics import asymptotic_risk, exact_risk, optimal_ridge
from lab.core.heads.factor_population import FactorPopulation
from lab.core.heads.population import DensePopulation, DiagonalPopulation, ModePopulation
from lab.experiments.hmm_risk.results.curves import Point, curve_shape, optimal_ridges, projected, theory_curve
from reference.isotropic import isotropic_risk


def hidden_state_population(num_features, *, state_dim, radius, noise, seed):
    """Next state z' = radius O z + … of a stationary orthogonal chain, seen through x = W z + u, W_ij ~ N(0, 1/q)."""
    loading = np.random.default_rng(seed).standard_normal((num_features, state_dim)) / np.sqrt(state_dim)
    return FactorPopulation(loading, np.eye(state_dim), noise**2, radius * np.eye(state_dim), np.ones(state_dim))


def decaying_population(decay):
    """1,600 isotropic features, squared coefficients j^-decay of sum 1, noise variance 0.2."""
    squared = np.arange(1, 1601.0) ** -decay
    squared /= squared.sum()
    return DiagonalPopulation(np.ones(1600), np.sqrt(squared)[:, None], 1.2)


def test_curve_holds_the_risk_of_every_width_and_ridge():
    population = hidden_state_population(60, state_dim=5, radius=0.8, noise=0.5, seed=0)
    widths, ridges = [3, 20, 39, 40, 60], [0.0, 0.1]
    curve = theory_curve(population, widths, num_train=40, ridges=ridges)
    for i, width in enumerate(widths):
        spectrum, noise_trace = population.spectrum(width), population.noise_trace(width)
        exact = exact_risk(spectrum, noise_trace, num_train=40)
        np.testing.assert_equal(curve.exact_excess[i], np.nan if exact is None else exact.excess)
        for j, ridge in enumerate(ridges):
            risk = asymptotic_risk(spectrum, noise_trace, num_train=40, ridge=ridge)
            assert (curve.bias[i, j], curve.variance[i, j]) == (risk.bias, risk.variance)
            assert (curve.kappa[i, j], curve.total[i, j]) == (risk.kappa, risk.total)
    np.testing.assert_array_equal(curve.gamma, np.array(widths) / 40)
    np.testing.assert_array_equal(curve.num_outputs, 5)
    # 1e-12: signal and noise trace are differences of the same target trace
    np.testing.assert_allclose(curve.snr, curve.signal / (5.0 - curve.signal), rtol=1e-12)


def test_ridges_may_change_with_the_width():
    population = hidden_state_population(60, state_dim=5, radius=0.8, noise=0.5, seed=0)
    widths = [10, 40, 60]
    strengths = optimal_ridges(population, widths, num_train=40)
    curve = theory_curve(population, widths, num_train=40, ridges=strengths[:, None])
    best = [optimal_ridge(population.spectrum(p), population.noise_trace(p), num_train=40) for p in widths]
    np.testing.assert_array_equal(curve.ridges[:, 0], [optimum.strength for optimum in best])
    np.testing.assert_array_equal(curve.excess[:, 0], [optimum.risk.excess for optimum in best])


def test_fixed_problem_excess_is_total_less_the_noise_of_the_widest_model():
    population = hidden_state_population(60, state_dim=5, radius=0.8, noise=0.5, seed=0)
    curve = theory_curve(population, [1, 10, 60], num_train=40, ridges=[0.0])
    # 1e-12: sums of the same numbers in another order
    np.testing.assert_allclose(curve.fixed_problem_excess, curve.total - population.noise_trace(60), rtol=1e-12)
    assert curve.misspecification[-1] == 0
    assert np.all(np.diff(curve.misspecification) < 0)


def test_problems_that_grow_with_the_model_have_no_misspecification():
    population = ModePopulation(np.full(30, 2.0), np.full(30, 0.3), np.full(30, 1.0))
    curve = theory_curve(population, [5, 10, 30], num_train=15, ridges=[0.0])
    np.testing.assert_array_equal(np.isnan(curve.misspecification), [True, True, False])
    np.testing.assert_array_equal(curve.num_outputs, [5, 10, 30])
    assert np.all(np.isfinite(curve.excess))


def test_targets_without_noise_give_infinite_snr_and_no_variance():
    rng = np.random.default_rng(1)
    variances, coefficients = rng.uniform(size=10), rng.uniform(size=(10, 1))
    # one rounding below the signal: the noise trace comes out as -2e-16
    target_variance = np.nextafter(float(variances @ coefficients[:, 0] ** 2), 0)
    population = DiagonalPopulation(variances, coefficients, target_variance)
    assert population.noise_trace(10) < 0
    curve = theory_curve(population, [10], num_train=5, ridges=[0.0])
    assert curve.snr[0] == np.inf
    assert curve.variance[0, 0] == 0


@pytest.mark.parametrize("decay", [0.0, 1.5, 2.5])
def test_misspecified_nested_isotropic_features_give_the_closed_form(decay):
    population = decaying_population(decay)
    widths = [1, 10, 40, 180, 220, 400, 1600]
    curve = theory_curve(population, widths, num_train=200, ridges=[0.0, 0.3])
    kept = np.cumsum(np.sum(population.coefficients**2, axis=1))[np.array(widths) - 1]
    for column, ridge in enumerate([0.0, 0.3]):
        closed = isotropic_risk(np.array(widths) / 200, signal=1.0, noise_trace=0.2, kept=kept, ridge=ridge)
        # 1e-10: 1 - kept loses some digits when nearly everything is seen
        np.testing.assert_allclose(curve.fixed_problem_excess[:, column], closed.excess, rtol=1e-10)


@pytest.mark.parametrize(
    ("decay", "recorded"),
    [
        (0.0, {40: 1.269, 180: 10.7, 1600: 0.904}),
        (1.5, {2: 0.479, 10: 0.244, 40: 0.1790, 80: 0.246, 180: 2.19, 400: 0.729, 1600: 0.904}),
        (2.5, {10: 0.0259}),
    ],
)
def test_one_isotropic_problem_gives_the_recorded_curve(decay, recorded):
    curve = theory_curve(decaying_population(decay), list(recorded), num_train=200, ridges=[0.0])
    # half a unit of the third printed digit, at most 0.5 %
    np.testing.assert_allclose(curve.fixed_problem_excess[:, 0], list(recorded.values()), rtol=0.005)


@pytest.mark.parametrize(("decay", "best"), [(0.0, 1600), (1.5, 40), (2.5, 10)])
def test_one_isotropic_problem_has_its_sweet_spot_where_recorded_but_own_excess_never_has_one(decay, best):
    widths = [1, 2, 5, 10, 20, 40, 80, 120, 180, 199, 200, 201, 240, 400, 800, 1600]
    curve = theory_curve(decaying_population(decay), widths, num_train=200, ridges=[0.0])
    fixed = curve_shape(widths, curve.fixed_problem_excess[:, 0], num_train=200)
    own = curve_shape(widths, curve.excess[:, 0], num_train=200)
    assert fixed.best.width == best
    assert fixed.first_descent_is_degenerate == (decay == 0.0)
    assert own.first_descent_is_degenerate
    assert own.best == own.smallest
    assert fixed.peak == Point(200, np.inf)
    assert fixed.peak_is_inside


# 200 rows; mean of 30 simulated draws with one loading matrix
STATE_50 = {20: (4.52, 44.9), 40: (8.40, 41.7), 100: (23.8, 47.4), 160: (87.5, 108.8)}


def test_fixed_state_gives_the_recorded_excess_and_total_risk():
    curves = [
        theory_curve(
            hidden_state_population(1000, state_dim=50, radius=0.8, noise=0.5, seed=seed),
            [*STATE_50, 400, 600, 1000],
            num_train=200,
            ridges=[0.0],
        )
        for seed in range(8)
    ]
    exact = np.array([[curve.exact_excess[:4], (curve.exact_excess + curve.noise_trace)[:4]] for curve in curves])
    recorded = np.array(list(STATE_50.values())).T
    # four standard deviations of the choice of W, and 3 % for 30 draws, whose variance is widest at 160
    allowed = 4 * exact.std(axis=0, ddof=1) + 0.03 * recorded
    assert np.all(np.abs(exact.mean(axis=0) - recorded) <= allowed)
    total = np.array([curve.total[4:, 0] for curve in curves])
    allowed = 4 * total.std(axis=0, ddof=1) + 0.01 * total.mean(axis=0)
    assert np.all(np.abs(total.mean(axis=0) - [43.7, 33.4, 28.3]) <= allowed)


def test_fixed_state_has_a_degenerate_first_descent_in_excess_and_a_real_one_in_total_risk():
    population = hidden_state_population(1000, state_dim=50, radius=0.8, noise=0.5, seed=0)
    widths = [2, 5, 10, 20, 40, 60, 100, 160, 190, 200, 210, 220, 300, 400, 600, 1000]
    strengths = optimal_ridges(population, widths, num_train=200)
    minimum_norm = theory_curve(population, widths, num_train=200, ridges=[0.0])
    tuned = theory_curve(population, widths, num_train=200, ridges=strengths[:, None])
    excess = curve_shape(widths, minimum_norm.excess[:, 0], num_train=200)
    total = curve_shape(widths, minimum_norm.total[:, 0], num_train=200)
    assert excess.first_descent_is_degenerate
    assert excess.best.width == 2
    assert not total.first_descent_is_degenerate
    assert total.best_below is not None
    assert 20 <= total.best_below.width <= 60
    assert total.second_descent_wins
    assert total.best.width == 1000
    assert total.peak.width == excess.peak.width == 200
    tuned_total = curve_shape(widths, tuned.total[:, 0], num_train=200)
    assert not tuned_total.peak_is_inside
    assert np.all(np.diff(tuned.total[:, 0]) < 0)


WIDTHS_800 = [5, 40, 80, 160, 240, 400, 800]


def deviation_in_spreads(curves, recorded):
    values = np.array([curve.fixed_problem_excess[:, 0] for curve in curves])
    return np.abs(values.mean(axis=0) - recorded) / (values.std(axis=0, ddof=1) + 0.001 * values.mean(axis=0))


def test_nested_features_of_a_hidden_state_give_the_recorded_theory():
    curves = [
        theory_curve(
            hidden_state_population(800, state_dim=60, radius=0.9, noise=1.0, seed=seed),
            WIDTHS_800,
            num_train=200,
            ridges=[0.0],
        )
        for seed in range(8)
    ]
    recorded = [44.72, 43.43, 47.78, 124.1, 127.8, 27.93, 11.19]
    # one loading matrix against eight others: four standard deviations
    assert np.all(deviation_in_spreads(curves, recorded) < 4)


def test_random_projections_of_a_hidden_state_give_the_recorded_theory():
    curves = []
    for seed in range(3):
        population = hidden_state_population(800, state_dim=60, radius=0.9, noise=1.0, seed=seed)
        directions = np.random.default_rng(100 + seed).standard_normal((800, 800)) / np.sqrt(800)
        curves.append(theory_curve(projected(population, directions), WIDTHS_800, num_train=200, ridges=[0.0]))
    recorded = [44.52, 43.10, 47.06, 122.7, 135.5, 36.06, 19.47]
    assert np.all(deviation_in_spreads(curves, recorded) < 5)


@pytest.mark.parametrize("num_outputs", [3, 8])
@pytest.mark.parametrize("is_orthonormal", [True, False])
def test_projected_moments_are_those_of_projected_features(is_orthonormal, num_outputs):
    rng = np.random.default_rng(5)
    root = rng.standard_normal((6, 6))
    cross = rng.standard_normal((6, num_outputs)) * 0.1
    factors = FactorPopulation(rng.standard_normal((20, 6)), root @ root.T, 0.5, cross, np.full(num_outputs, 2.0))
    covariance, _ = factors.dense(20)
    dense = DensePopulation(covariance, factors.loading @ cross, 2.0 * num_outputs)
    directions = rng.standard_normal((20, 12))
    if is_orthonormal:
        directions = np.linalg.qr(directions)[0]
    for population in (factors, dense):
        smaller = projected(population, directions)
        assert smaller.num_features == 12
        assert smaller.num_outputs(12) == num_outputs
        for width in (1, 7, 12):
            s = directions[:, :width]
            expected, expected_cross = s.T @ covariance @ s, s.T @ factors.loading @ cross
            head = np.linalg.solve(expected, expected_cross)
            measured, measured_head = smaller.dense(width)
            # 1e-9: condition numbers of some 1e3
            np.testing.assert_allclose(measured, expected, rtol=1e-9, atol=1e-9)
            np.testing.assert_allclose(measured_head @ measured_head.T, head @ head.T, rtol=1e-9, atol=1e-12)
            noise_trace = 2.0 * num_outputs - np.sum(expected_cross * head)
            assert smaller.noise_trace(width) == pytest.approx(noise_trace, rel=1e-9)


def test_turning_all_features_changes_no_full_width_risk():
    population = hidden_state_population(60, state_dim=5, radius=0.8, noise=0.5, seed=0)
    rotation = np.linalg.qr(np.random.default_rng(1).standard_normal((60, 60)))[0]
    before = theory_curve(population, [60], num_train=40, ridges=[0.0, 0.1])
    after = theory_curve(projected(population, rotation), [60], num_train=40, ridges=[0.0, 0.1])
    # 1e-11: rounding of two decompositions
    np.testing.assert_allclose(after.total, before.total, rtol=1e-11)


def test_exact_line_of_a_projection_is_the_simulated_risk():
    population = hidden_state_population(30, state_dim=4, radius=0.8, noise=0.5, seed=0)
    rng = np.random.default_rng(2)
    directions = rng.standard_normal((30, 16))
    curve = theory_curve(projected(population, directions), [16], num_train=24, ridges=[0.0])
    covariance, _ = population.dense(30)
    target_map = 0.8 * population.loading.T @ np.linalg.inv(covariance)
    residual = np.linalg.cholesky(np.eye(4) - 0.8 * target_map @ population.loading)
    root = np.linalg.cholesky(covariance)
    risks = []
    for _ in range(1000):
        x = rng.standard_normal((124, 30)) @ root.T
        y = x @ target_map.T + rng.standard_normal((124, 4)) @ residual.T
        features = x @ directions
        head = np.linalg.pinv(features[:24]) @ y[:24]
        risks.append(np.mean(np.sum((y[24:] - features[24:] @ head) ** 2, axis=1)))
    error = np.std(risks, ddof=1) / np.sqrt(len(risks))
    exact_total = curve.exact_excess[0] + curve.noise_trace[0]
    assert abs(np.mean(risks) - exact_total) < 4 * error, (np.mean(risks), exact_total, error)
    # and the asymptotic line alone would be told apart from it
    assert abs(exact_total - curve.total[0, 0]) > 4 * error


@pytest.mark.parametrize(
    ("widths", "ridges", "message"),
    [
        ([], [0.0], "widths is empty"),
        ([5, 0], [0.0], "widths contains 0, expected 1 to 10"),
        ([11], [0.0], "widths contains 11, expected 1 to 10"),
        ([5], [], r"ridges has shape \(0,\)"),
        (
            [5, 6],
            np.zeros((3, 1)),
            r"ridges has shape \(3, 1\); give a list of strengths, or one row for each",
        ),
        ([5], [-1.0], "ridge=-1.0 must be"),
    ],
)
def test_bad_grids_are_refused_by_name(widths, ridges, message):
    population = DiagonalPopulation(np.ones(10), np.ones((10, 1)), 20.0)
    with pytest.raises(InputError, match=message):
        theory_curve(population, widths, num_train=8, ridges=ridges)


def test_bad_projections_are_refused_by_name():
    population = DiagonalPopulation(np.ones(10), np.ones((10, 1)), 20.0)
    with pytest.raises(InputError, match=r"directions has shape \(9, 3\); expected 10 rows"):
        projected(population, np.ones((9, 3)))
    with pytest.raises(InputError, match=r"directions has shape \(10, 11\)"):
        projected(population, np.ones((10, 11)))
    with pytest.raises(InputError, match="as many outputs as features"):
        projected(ModePopulation(np.ones(4), np.ones(4), np.ones(4)), np.eye(4))
    with pytest.raises(InputError, match="widths contains 11"):
        optimal_ridges(population, [11], num_train=4)
