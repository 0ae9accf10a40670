"""Every function of `checks` returns its argument ready for use, or one line that names it, its value and the fix."""

import numpy as np
import pytest

from lab.core import validation
from lab.core.errors import InputError


@pytest.mark.parametrize("value", [1, 7, np.int8(3), np.uint64(12)])
def test_whole_numbers_of_python_and_numpy_come_back_as_int(value):
    number = validation.whole_number("num_rows", value)
    assert number == value
    assert type(number) is int


def test_the_least_whole_number_can_be_set():
    assert validation.whole_number("lag", 0, at_least=0) == 0


@pytest.mark.parametrize("value", [1, 2.5, np.float32(0.5), np.array(3.0)])
def test_numbers_come_back_as_float(value):
    number = validation.real_number("ridge", value)
    assert number == float(value)
    assert type(number) is float


def test_limits_that_belong_to_a_range_are_allowed():
    assert validation.non_negative_number("ridge", 0) == 0
    assert validation.number_in_unit_interval("rtol", 0) == 0
    assert validation.number_in_unit_interval("rtol", 1 - 1e-16) < 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: validation.whole_number("n", 0), "n=0 must be a whole number of 1 or more; raise it"),
        (lambda: validation.whole_number("n", -3, at_least=2), "n=-3 must be a whole number of 2 or more; raise it"),
        (lambda: validation.whole_number("n", 3.0), "n=3.0 must be a whole number of 1 or more; give an int"),
        (lambda: validation.whole_number("n", True), "n=True must be a whole number of 1 or more; give an int"),
        (lambda: validation.whole_number("n", "3"), "n='3' must be a whole number of 1 or more; give an int"),
        (lambda: validation.whole_number("n", None), "n=None must be a whole number of 1 or more; give an int"),
        (lambda: validation.real_number("x", [1.0]), "x has shape (1,) but must be one number; give a float"),
        (lambda: validation.real_number("x", "1"), "x has dtype <U1 but must hold numbers; give ints or floats"),
        (lambda: validation.real_number("x", None), "x has dtype object but must hold numbers; give ints or floats"),
        (lambda: validation.real_number("x", True), "x has dtype bool but must hold numbers; give ints or floats"),
        (
            lambda: validation.real_number("x", 1j),
            "x has dtype complex128 but must be real; give its real part if that is what is meant",
        ),
        (lambda: validation.real_number("x", np.nan), "x=nan must be finite; remove NaN and infinity from x"),
        (lambda: validation.positive_number("x", 0), "x=0 must be positive; give a number above 0"),
        (lambda: validation.positive_number("x", -2.5), "x=-2.5 must be positive; give a number above 0"),
        (lambda: validation.non_negative_number("x", -1e-9), "x=-1e-09 must not be negative; give 0 or more"),
        (
            lambda: validation.number_in_unit_interval("rtol", 1),
            "rtol=1 must lie in [0, 1); give a number from 0 up to, but not, 1",
        ),
        (
            lambda: validation.number_in_unit_interval("rtol", -0.5),
            "rtol=-0.5 must lie in [0, 1); give a number from 0 up to, but not, 1",
        ),
        (
            lambda: validation.real_array("x", [[1.0, 2.0], [3.0]]),
            "x is ragged but must be an array of numbers; give rows of equal length",
        ),
        (
            lambda: validation.real_array("x", np.array([[0.0, 1.0], [np.inf, np.nan]])),
            "x[1, 0]=inf must be finite; remove NaN and infinity from x",
        ),
        (
            lambda: validation.real_array("x", np.ones((2, 3)), shape=(3, None)),
            "x has shape (2, 3) but must have shape (3, any); reshape it",
        ),
        (
            lambda: validation.real_array("x", np.ones(3), shape=(4,)),
            "x has shape (3,) but must have shape (4,); give 4 numbers",
        ),
        (
            lambda: validation.square_matrix("transition", np.ones((2, 3))),
            "transition has shape (2, 3) but must be square; give as many columns as rows",
        ),
        (
            lambda: validation.square_matrix("transition", np.ones((0, 0))),
            "transition has shape (0, 0) but must be square; give as many columns as rows",
        ),
        (
            lambda: validation.square_matrix("transition", np.eye(2), size=3),
            "transition has shape (2, 2) but must have shape (3, 3); give 9 numbers",
        ),
        (
            lambda: validation.covariance_matrix("P", [[1.0, 0.5], [0.0, 1.0]]),
            "P differs from its transpose by 0.5 but must be symmetric; give (P + P') / 2 if rounding is the cause",
        ),
        (
            lambda: validation.covariance_matrix("P", [[1.0, 2.0], [2.0, 1.0]]),
            "P has the eigenvalue -1 but must be positive semi-definite; give a covariance",
        ),
        (
            lambda: validation.covariance_matrix("P", np.diag([1.0, -1e-9])),
            "P has the eigenvalue -1e-09 but must be positive semi-definite; give a covariance",
        ),
        (
            lambda: validation.covariance_matrix("P", -np.eye(2)),
            "P has the eigenvalue -1 but must be positive semi-definite; give a covariance",
        ),
        (
            lambda: validation.probability_rows("emission", [[0.5, 0.5], [1.25, -0.25]], shape=(None, None)),
            "emission[1, 1]=-0.25 is a negative probability; give 0 or more",
        ),
        (
            lambda: validation.probability_rows("emission", [[0.5, 0.5], [0.5, 0.4]], shape=(None, None)),
            "row 1 of emission sums to 0.9 but must sum to 1 within 1e-08; divide it by its sum",
        ),
        (
            lambda: validation.probability_rows("initial", [0.5, 0.4], shape=(None,)),
            "initial sums to 0.9 but must sum to 1 within 1e-08; divide it by its sum",
        ),
        (
            lambda: validation.probability_rows("emission", np.ones((2, 0)), shape=(None, None)),
            "emission has shape (2, 0) but must not be empty; give at least one row and one column",
        ),
    ],
)
def test_a_refusal_is_one_line_with_name_value_and_cure(call, message):
    with pytest.raises(InputError) as refused:
        call()
    assert str(refused.value) == message


@pytest.mark.parametrize("dtype", [np.int32, np.uint8, np.float16, np.float32, np.float64])
def test_arrays_of_every_real_dtype_come_back_as_float64(dtype):
    array = validation.real_array("x", np.array([[1, 2], [3, 4]], dtype=dtype))
    assert array.dtype == np.float64
    np.testing.assert_array_equal(array, [[1, 2], [3, 4]])


def test_arrays_are_neither_copied_without_need_nor_modified():
    array = np.arange(12.0).reshape(3, 4)[:, ::2]
    array.flags.writeable = False
    assert validation.real_array("x", array) is array


def test_covariances_may_be_singular_zero_or_off_by_rounding():
    factor = np.random.default_rng(0).standard_normal((5, 2))
    for covariance in (factor @ factor.T, np.zeros((3, 3)), np.array([[1.0, 1e-11], [0.0, 1.0]])):
        np.testing.assert_array_equal(validation.covariance_matrix("P", covariance), covariance)


def test_probabilities_may_be_off_by_the_tolerance():
    rows = np.array([[0.5, 0.5 + 9e-9], [1.0, 0.0]])
    np.testing.assert_array_equal(validation.probability_rows("emission", rows, shape=(2, None)), rows)


def test_spectral_radius_is_the_largest_modulus_and_not_the_norm():
    assert validation.spectral_radius(np.array([[0.5, 100.0], [0.0, -0.75]])) == pytest.approx(0.75)
    assert validation.spectral_radius(np.array([[0.0, -0.5], [0.5, 0.0]])) == pytest.approx(0.5)
