"""Heads against numpy's pseudo-inverse and the geometry of least squares."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.core.errors import InputError
from lab.core.heads.decompositions import default_rank_tolerance
from lab.core.heads.linear_head import LinearHead, monte_carlo_risk

# "long", square and "wide"
SHAPES = [(30, 7), (12, 12), (7, 30)]
RTOL = 1e-12


def problem(shape, *, rank=None, num_outputs=2, seed=0):
    rng = np.random.default_rng(seed)
    features = rng.standard_normal(shape)
    if rank is not None:
        features = rng.standard_normal((shape[0], rank)) @ rng.standard_normal((rank, shape[1]))
    return features, rng.standard_normal((shape[0], num_outputs))


def fit(features, targets, ridge=0.0):
    return LinearHead.fit(features, targets, ridge=ridge, rtol=RTOL)


cases = pytest.mark.parametrize(
    ("shape", "rank"), [*((shape, None) for shape in SHAPES), *((shape, 3) for shape in SHAPES)]
)


@cases
def test_minimum_norm_head_is_that_of_the_pseudo_inverse(shape, rank):
    features, targets = problem(shape, rank=rank)
    head = fit(features, targets)
    expected = np.linalg.pinv(features, rcond=RTOL) @ targets
    np.testing.assert_allclose(head.weight, expected, rtol=1e-9, atol=1e-12)
    assert head.rank == (rank or min(shape))
    assert head.weight_norm == pytest.approx(np.linalg.norm(expected))


@cases
@pytest.mark.parametrize("ridge", [0.0, 0.3])
def test_solution_lies_in_the_row_space(shape, rank, ridge):
    features, targets = problem(shape, rank=rank)
    weight = fit(features, targets, ridge).weight
    projected = np.linalg.pinv(features, rcond=RTOL) @ (features @ weight)
    np.testing.assert_allclose(projected, weight, atol=1e-12 * np.abs(weight).max() * 100)


@cases
def test_residual_is_orthogonal_to_the_column_space(shape, rank):
    features, targets = problem(shape, rank=rank)
    residual = targets - fit(features, targets).predict(features)
    np.testing.assert_allclose(features.T @ residual, 0.0, atol=1e-11)


@pytest.mark.parametrize("shape", [(12, 12), (7, 30)])
def test_as_many_features_as_rows_interpolate(shape):
    features, targets = problem(shape)
    head = fit(features, targets)
    np.testing.assert_allclose(head.predict(features), targets, atol=1e-11)


@cases
def test_minimum_norm_head_is_the_limit_of_ridge(shape, rank):
    features, targets = problem(shape, rank=rank)
    limit = fit(features, targets).weight
    distances = [np.linalg.norm(fit(features, targets, ridge).weight - limit) for ridge in (1e-3, 1e-5, 1e-7)]
    assert distances[0] > distances[1] > distances[2]
    # the difference is linear in lambda once that is small against the squared singular values over n
    assert distances[2] == pytest.approx(distances[1] / 100, rel=0.1)


@given(
    shape=st.sampled_from(SHAPES),
    ridge=st.sampled_from([0.0, 1e-3, 1.0]),
    scale=st.floats(1e-3, 1e3),
    seed=st.integers(0, 99),
)
def test_rotations_scalings_and_empty_columns_do_what_they_should(shape, ridge, scale, seed):
    features, targets = problem(shape, seed=seed)
    weight = fit(features, targets, ridge).weight
    size = np.abs(weight).max()
    rotation, _ = np.linalg.qr(np.random.default_rng(seed + 1).standard_normal((shape[1], shape[1])))
    np.testing.assert_allclose(rotation @ fit(features @ rotation, targets, ridge).weight, weight, atol=1e-9 * size)
    np.testing.assert_allclose(fit(features, scale * targets, ridge).weight, scale * weight, atol=1e-9 * scale * size)
    padded = fit(np.insert(features, 3, 0.0, axis=1), targets, ridge).weight
    np.testing.assert_allclose(padded[3], 0.0, atol=1e-12 * size)
    np.testing.assert_allclose(np.delete(padded, 3, axis=0), weight, atol=1e-9 * size)
    order = np.random.default_rng(seed + 2).permutation(shape[0])
    np.testing.assert_allclose(fit(features[order], targets[order], ridge).weight, weight, atol=1e-9 * size)


@pytest.mark.parametrize("gap", [1e-3, 1e-6])
def test_near_the_threshold_the_solution_keeps_its_digits(gap):
    # nearly dependent columns: the weight is large, and known
    rng = np.random.default_rng(4)
    left, _ = np.linalg.qr(rng.standard_normal((20, 20)))
    right, _ = np.linalg.qr(rng.standard_normal((20, 20)))
    singular = np.append(np.linspace(2, 1, 19), gap)
    weight = fit((left * singular) @ right.T, left[:, -1:]).weight
    np.testing.assert_allclose(weight, right[:, -1:] / gap, rtol=1e-12 / gap, atol=1e-12 / gap**2)


@pytest.mark.parametrize("dtype", [np.int64, np.float32])
def test_ints_and_float32_are_cast(dtype):
    features = np.random.default_rng(5).integers(-5, 6, size=(12, 4)).astype(dtype)
    targets = np.arange(12).reshape(12, 1).astype(dtype)
    head, expected = fit(features, targets), fit(features.astype(float), targets.astype(float))
    assert head.weight.dtype == np.float64
    np.testing.assert_array_equal(head.weight, expected.weight)
    np.testing.assert_array_equal(head.predict(features), expected.predict(features.astype(float)))


def test_read_only_and_strided_arrays_work_and_stay_as_they_are():
    features, targets = problem((24, 9))
    expected = fit(features[::2, ::3], targets[::2]).weight
    strided, answers = np.asfortranarray(features)[::2, ::3], targets[::2]
    for array in (strided, answers):
        array.flags.writeable = False
    np.testing.assert_allclose(fit(strided, answers).weight, expected, rtol=1e-10)
    np.testing.assert_array_equal(strided, features[::2, ::3])
    np.testing.assert_array_equal(answers, targets[::2])


def test_monte_carlo_risk_is_mean_and_standard_error_of_squared_errors():
    features, targets = problem((40, 3))
    head = fit(features[:20], targets[:20])
    errors = np.sum((features[20:] @ head.weight - targets[20:]) ** 2, axis=1)
    risk = monte_carlo_risk(head, features[20:], targets[20:])
    assert risk.mean == pytest.approx(np.mean(errors))
    assert risk.standard_error == pytest.approx(np.std(errors, ddof=1) / np.sqrt(20))


X, Y = problem((6, 3))


@pytest.mark.wrong_shapes
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fit(X, Y[:5]), r"targets has shape \(5, 2\) but must have shape \(6, any\)"),
        (lambda: fit(X, Y[:, 0]), r"targets has shape \(6,\) but must have shape \(6, any\)"),
        (lambda: fit(X[:0], Y[:0]), r"features have shape \(0, 3\); give at least one row"),
        (lambda: fit(X * np.nan, Y), r"features\[0, 0\]=nan must be finite"),
        (lambda: fit(X, Y * np.inf), r"targets\[0, 0\]=-?inf must be finite"),
        (lambda: fit(X * 1j, Y), "features has dtype complex128 but must be real"),
        (lambda: fit(X, Y, ridge=-1.0), "ridge=-1 must not be negative; give 0 or more"),
        (lambda: fit(X, Y, ridge=np.nan), "ridge=nan must be finite"),
        (lambda: LinearHead.fit(X, Y, ridge=0.0, rtol=1.5), r"rtol=1\.5 must lie in \[0, 1\)"),
        (lambda: fit(X, Y).predict(X[:, :2]), r"features has shape \(6, 2\) but must have shape \(any, 3\)"),
        (lambda: monte_carlo_risk(fit(X, Y), X[:1], Y[:1]), "targets have 1 rows; a standard error needs two or more"),
        (lambda: monte_carlo_risk(fit(X, Y), X, Y[:2]), r"targets has shape \(2, 2\) but must have shape \(6, 2\)"),
    ],
)
def test_bad_input_is_named_in_one_line(call, message):
    with pytest.raises(InputError, match=message) as refused:
        call()
    assert "\n" not in str(refused.value)


def test_the_default_tolerance_grows_with_the_larger_side():
    assert default_rank_tolerance(3, 500) == default_rank_tolerance(500, 3) == 500 * 2.0**-52
