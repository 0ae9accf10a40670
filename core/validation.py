"""Validation of numbers and arrays: each function returns one ready for use, or raises an error that says what to do.

Arrays are returned as float64; int and float32 are cast, complex is refused. Inputs are never modified: read-only and
non-contiguous arrays are fine.
"""

import math
import operator
from typing import Any

import numpy as np
from jaxtyping import Float64
from numpy import ndarray
from numpy.typing import ArrayLike

from lab.core.errors import InputError

# How far a covariance may be from symmetric, and its smallest eigenvalue below zero, as a fraction of its largest entry
# or eigenvalue; rounding in products such as A P A' stays orders of magnitude below this.
COVARIANCE_TOLERANCE = 1e-10

# How far a row of probabilities may be from summing to one.
PROBABILITY_TOLERANCE = 1e-8
# float32 softmax rows of a few thousand entries are off by about 1e-7
FLOAT32_PROBABILITY_TOLERANCE = 1e-6


def whole_number(name: str, value: Any, *, at_least: int = 1) -> int:
    """An integer of `at_least` or more; numpy integers count, booleans and floats do not.

    Raises:
        InputError: naming argument, value and hint.
    """
    expected = f"a whole number of {at_least} or more"
    if isinstance(value, bool | np.bool_):
        raise InputError(f"{name}={value!r} must be {expected}; give an int")
    try:
        number = operator.index(value)
    except TypeError:
        raise InputError(f"{name}={value!r} must be {expected}; give an int") from None
    if number < at_least:
        raise InputError(f"{name}={number} must be {expected}; raise it")
    return number


def real_number(name: str, value: Any) -> float:
    """A finite float.

    Raises:
        InputError: for anything else, complex numbers and strings included.
    """
    array = real_array(name, value)
    if array.ndim:
        raise InputError(f"{name} has shape {array.shape} but must be one number; give a float")
    return float(array)


def positive_number(name: str, value: Any) -> float:
    """A finite float above zero.

    Raises:
        InputError: for anything else.
    """
    number = real_number(name, value)
    if number <= 0:
        raise InputError(f"{name}={number:g} must be positive; give a number above 0")
    return number


def non_negative_number(name: str, value: Any) -> float:
    """A finite float, zero or above.

    Raises:
        InputError: for anything else.
    """
    number = real_number(name, value)
    if number < 0:
        raise InputError(f"{name}={number:g} must not be negative; give 0 or more")
    return number


def number_in_unit_interval(name: str, value: Any) -> float:
    """A float in [0, 1).

    Raises:
        InputError: for anything else.
    """
    number = real_number(name, value)
    if not 0 <= number < 1:
        raise InputError(f"{name}={number:g} must lie in [0, 1); give a number from 0 up to, but not, 1")
    return number


def real_array(name: str, value: ArrayLike, *, shape: tuple[int | None, ...] | None = None) -> Float64[ndarray, "..."]:
    """A finite float64 array; `shape` gives the length of each axis, None for any.

    Raises:
        InputError: for complex or non-numeric entries, NaN, infinity, or a shape that does not fit.
    """
    try:
        array = np.asarray(value)
    except ValueError:
        raise InputError(f"{name} is ragged but must be an array of numbers; give rows of equal length") from None
    except (TypeError, RuntimeError) as error:
        # tensors of torch that have a gradient, are on a GPU, or are of a type that numpy lacks
        raise InputError(
            f"{name} cannot be read as an array ({' '.join(str(error).split())}); give a numpy array, of a tensor "
            "tensor.detach().cpu().double().numpy()"
        ) from None
    if array.dtype.kind == "c":
        raise InputError(
            f"{name} has dtype {array.dtype} but must be real; give its real part if that is what is meant"
        )
    if array.dtype.kind not in "iuf":
        raise InputError(f"{name} has dtype {array.dtype} but must hold numbers; give ints or floats")
    array = array.astype(np.float64, copy=False)
    if shape is not None:
        _refuse_wrong_shape(name, array.shape, shape)
    if not np.isfinite(array).all():
        index = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        where = f"[{', '.join(map(str, index))}]" if index else ""
        raise InputError(f"{name}{where}={array[index]} must be finite; remove NaN and infinity from {name}")
    return array


def square_matrix(name: str, value: ArrayLike, *, size: int | None = None) -> Float64[ndarray, "q q"]:
    """A finite square matrix, of `size` rows if that is given.

    Raises:
        InputError: for anything else.
    """
    matrix = real_array(name, value, shape=(size, size))
    if matrix.shape[0] != matrix.shape[1] or matrix.shape[0] == 0:
        raise InputError(f"{name} has shape {matrix.shape} but must be square; give as many columns as rows")
    return matrix


def covariance_matrix(name: str, value: ArrayLike, *, size: int | None = None) -> Float64[ndarray, "q q"]:
    """A symmetric positive semi-definite matrix, up to a relative tolerance of `COVARIANCE_TOLERANCE`.

    Raises:
        InputError: for anything else.
    """
    matrix = square_matrix(name, value, size=size)
    asymmetry = float(np.abs(matrix - matrix.T).max())
    scale = float(np.abs(matrix).max())
    if asymmetry > COVARIANCE_TOLERANCE * scale:
        raise InputError(
            f"{name} differs from its transpose by {asymmetry:.3g} but must be symmetric; give ({name} + {name}') / 2 "
            "if rounding is the cause"
        )
    eigenvalues = np.linalg.eigvalsh((matrix + matrix.T) / 2)
    if eigenvalues[0] < -COVARIANCE_TOLERANCE * max(eigenvalues[-1], 0.0):
        raise InputError(
            f"{name} has the eigenvalue {eigenvalues[0]:.3g} but must be positive semi-definite; give a covariance"
        )
    return matrix


def probability_rows(
    name: str, value: ArrayLike, *, shape: tuple[int | None, ...], tolerance: float = PROBABILITY_TOLERANCE
) -> Float64[ndarray, "..."]:
    """An array whose last axis holds probabilities: no negative entry, sums within `tolerance` of one.

    Raises:
        InputError: naming the first row that is none.
    """
    rows = real_array(name, value, shape=shape)
    if rows.size == 0:
        raise InputError(f"{name} has shape {rows.shape} but must not be empty; give at least one row and one column")
    if (rows < 0).any():
        index = tuple(int(i) for i in np.argwhere(rows < 0)[0])
        raise InputError(
            f"{name}[{', '.join(map(str, index))}]={rows[index]:g} is a negative probability; give 0 or more"
        )
    sums = rows.sum(axis=-1)
    wrong = np.abs(sums - 1) > tolerance
    if wrong.any():
        index = tuple(int(i) for i in np.argwhere(wrong)[0])
        where = f"row {index[0]} of {name}" if index else name
        raise InputError(
            f"{where} sums to {sums[index]:.10g} but must sum to 1 within {tolerance:g}; divide it by its sum"
        )
    return rows


def spectral_radius(matrix: Float64[ndarray, "q q"]) -> float:
    """The largest modulus of an eigenvalue."""
    return float(np.abs(np.linalg.eigvals(matrix)).max())


def _refuse_wrong_shape(name: str, shape: tuple[int, ...], expected: tuple[int | None, ...]) -> None:
    fits = len(shape) == len(expected) and all(
        want is None or want == have for have, want in zip(shape, expected, strict=True)
    )
    if not fits:
        shape_text = (
            f"({', '.join('any' if want is None else str(want) for want in expected)}{',' * (len(expected) == 1)})"
        )
        hint = f"give {math.prod(w for w in expected if w)} numbers" if None not in expected else "reshape it"
        raise InputError(
            f"{name} has shape {shape} but must have shape {shape_text}; {hint if expected else 'give a number'}"
        )
