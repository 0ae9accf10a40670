"""Decompositions against known singular values and numpy's SVD."""

import warnings

import numpy as np
import pytest

from lab.core.errors import InputError
from lab.core.heads.decompositions import default_rank_tolerance, right_spectrum, thin_svd

# "long", square and "wide"
SHAPES = [(30, 7), (12, 12), (7, 30)]


def with_singular_values(shape, singular, *, seed=0):
    """A matrix of known decomposition: left diag(singular) right'."""
    rng = np.random.default_rng(seed)
    left, _ = np.linalg.qr(rng.standard_normal((shape[0], len(singular))))
    right, _ = np.linalg.qr(rng.standard_normal((shape[1], len(singular))))
    return (left * singular) @ right.T


@pytest.mark.parametrize("shape", SHAPES)
def test_known_singular_values_are_found(shape):
    singular = np.linspace(3, 0.5, min(shape))
    features = with_singular_values(shape, singular)
    svd = thin_svd(features, rtol=1e-12)
    np.testing.assert_allclose(svd.singular, singular, rtol=1e-13)
    np.testing.assert_allclose((svd.left * svd.singular) @ svd.right, features, atol=1e-14)
    np.testing.assert_allclose(svd.left.T @ svd.left, np.eye(svd.rank), atol=1e-14)
    np.testing.assert_allclose(svd.right @ svd.right.T, np.eye(svd.rank), atol=1e-14)


@pytest.mark.parametrize("shape", SHAPES)
def test_rank_is_that_of_the_matrix(shape):
    features = with_singular_values(shape, [5.0, 2.0, 1.0])
    svd = thin_svd(features, rtol=default_rank_tolerance(*shape))
    assert svd.rank == 3
    np.testing.assert_allclose((svd.left * svd.singular) @ svd.right, features, atol=1e-14)


def test_the_tolerance_decides_what_counts():
    features = with_singular_values((10, 6), [1.0, 1e-2, 1e-4])
    for rtol, rank in ((1e-5, 3), (1e-3, 2), (0.1, 1)):
        assert thin_svd(features, rtol=rtol).rank == rank


def test_zero_features_have_rank_zero():
    assert thin_svd(np.zeros((4, 3)), rtol=0).rank == 0


def test_tiny_singular_values_that_count_as_signal_are_warned_of():
    features = with_singular_values((10, 6), [1.0, 0.5, 1e-9])
    with pytest.warns(UserWarning, match=r"1\.0e-09 times the largest counts as signal; .* raise rtol=1\.0e-12"):
        thin_svd(features, rtol=1e-12)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        thin_svd(features, rtol=1e-8)
        thin_svd(with_singular_values((10, 6), [1.0, 0.5, 2e-8]), rtol=1e-12)


def test_the_other_driver_is_taken_where_the_first_does_not_converge(monkeypatch):
    from scipy import linalg  # noqa: PLC0415

    plain = linalg.svd

    def stubborn(*arguments, lapack_driver="gesdd", **options):
        if lapack_driver == "gesdd":
            raise np.linalg.LinAlgError("SVD did not converge")
        return plain(*arguments, lapack_driver=lapack_driver, **options)

    features = with_singular_values((8, 5), [3.0, 2.0])
    expected = thin_svd(features, rtol=1e-12)
    monkeypatch.setattr(linalg, "svd", stubborn)
    np.testing.assert_allclose(thin_svd(features, rtol=1e-12).singular, expected.singular, rtol=1e-14)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_gram_route_keeps_ten_digits_where_it_begins(shape):
    features = with_singular_values(shape, np.logspace(0, -12, min(shape)))
    # the least ridge that takes the route, given that the squares sum to 1.01 or so
    strength = 1.1e-6 * np.sum(features**2) / shape[0]
    _, singular, right = np.linalg.svd(features, full_matrices=False)
    gain = singular / (singular**2 + shape[0] * strength)
    spectrum = right_spectrum(features, smallest_ridge=strength, rtol=1e-15)
    filtered = (spectrum.right.T * (spectrum.singular**2 / (spectrum.singular**2 + shape[0] * strength))) @ (
        spectrum.right
    )
    np.testing.assert_allclose(filtered, (right.T * (gain * singular)) @ right, atol=1e-9)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("smallest_ridge", [0.0, 10.0])
def test_right_spectrum_is_that_of_the_features_on_both_routes(shape, smallest_ridge):
    features = with_singular_values(shape, [3.0, 2.0, 1.0, 0.5])
    singular, right = right_spectrum(features, smallest_ridge=smallest_ridge, rtol=1e-6)
    np.testing.assert_allclose(np.sort(singular), [0.5, 1, 2, 3], rtol=1e-13)
    np.testing.assert_allclose(right @ right.T, np.eye(4), atol=1e-12)
    np.testing.assert_allclose((right.T * singular**2) @ right, features.T @ features, atol=1e-13)


def test_inputs_are_not_modified():
    rng = np.random.default_rng(3)
    for shape in SHAPES:
        features = np.asfortranarray(rng.standard_normal(shape))
        features.flags.writeable = False
        before = features.copy()
        thin_svd(features, rtol=0)
        right_spectrum(features, smallest_ridge=10.0, rtol=0)
        np.testing.assert_array_equal(features, before)


@pytest.mark.wrong_shapes
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: thin_svd(np.ones((0, 3)), rtol=0), r"features have shape \(0, 3\); give at least one row"),
        (lambda: thin_svd(np.ones((3, 0)), rtol=0), r"features have shape \(3, 0\); give at least one row"),
        (lambda: thin_svd(np.ones(3), rtol=0), r"features has shape \(3,\) but must have shape \(any, any\)"),
        (lambda: thin_svd(np.ones((3, 2)) * 1j, rtol=0), "features has dtype complex128 but must be real; give"),
        (lambda: thin_svd(np.full((3, 2), np.nan), rtol=0), r"features\[0, 0\]=nan must be finite; remove"),
        (lambda: thin_svd(np.ones((3, 2)), rtol=1.0), r"rtol=1 must lie in \[0, 1\); give"),
        (lambda: thin_svd(np.ones((3, 2)), rtol=-0.1), r"rtol=-0\.1 must lie in \[0, 1\); give"),
    ],
)
def test_what_is_no_matrix_or_tolerance_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()
