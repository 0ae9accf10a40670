import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.core.errors import InputError
from lab.experiments.hmm_risk.results.curves import Point, curve_shape


def test_shape_names_the_turning_points_on_both_sides():
    shape = curve_shape([30, 1, 20, 10, 5], np.array([2.0, 3.0, 9.0, np.inf, 1.0]), num_train=10)
    assert shape.smallest == Point(1, 3.0)
    assert shape.best == shape.best_below == Point(5, 1.0)
    assert shape.best_above == Point(30, 2.0)
    assert shape.peak == Point(10, np.inf)
    assert shape.peak_is_inside
    assert not shape.first_descent_is_degenerate
    assert not shape.second_descent_wins


def test_shape_leaves_out_widths_without_a_value_and_sides_without_widths():
    shape = curve_shape([1, 2, 3, 4], np.array([np.nan, 2.0, 3.0, np.nan]), num_train=10)
    assert shape.smallest == shape.best == Point(2, 2.0)
    assert shape.best_above is None
    assert shape.first_descent_is_degenerate
    assert not shape.second_descent_wins
    assert not shape.peak_is_inside
    above = curve_shape([12, 14], np.array([2.0, 1.0]), num_train=10)
    assert above.best_below is None
    assert not above.first_descent_is_degenerate


@settings(deadline=None)
@given(
    risks=st.lists(st.floats(0, 1e9) | st.just(float("nan")), min_size=1, max_size=30).filter(
        lambda values: not all(np.isnan(values))
    ),
    num_train=st.integers(1, 40),
)
def test_shape_agrees_with_a_direct_search(risks, num_train):
    widths = list(range(1, len(risks) + 1))
    shape = curve_shape(widths, np.array(risks), num_train=num_train)
    assert shape.best.width == widths[int(np.nanargmin(risks))]
    assert shape.peak.risk == np.nanmax(risks)
    below = [risk for width, risk in zip(widths, risks, strict=True) if width < num_train and not np.isnan(risk)]
    assert (shape.best_below is None) == (not below)
    if below:
        assert shape.best_below is not None
        assert shape.best_below.risk == min(below)


def test_bad_curves_are_refused_by_name():
    with pytest.raises(InputError, match="risks has 1 entries for 2 widths"):
        curve_shape([1, 2], np.ones(1), num_train=4)
    with pytest.raises(InputError, match="no entry that is a number"):
        curve_shape([1], np.array([np.nan]), num_train=4)
