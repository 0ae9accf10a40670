"""Differences of configurations and results, against values worked out by hand."""

import pytest

from lab.core.runs.compare import differing_keys, paired
from lab.core.runs.recorded_study import Result


def test_keys_that_differ_are_named_in_full() -> None:
    first = {"seed": 0, "hmm": {"transition": "general", "state_dim": 5}, "workers": 1, "curves": {}}
    second = {"seed": 1, "hmm": {"transition": "general"}, "workers": 8, "curves": {"a": {"snr": 2}}}
    assert differing_keys([first, second]) == [
        ("seed", [0, 1]),
        ("hmm.state_dim", [5, "absent"]),
        ("curves", [{}, "absent"]),
        ("curves.a.snr", ["absent", 2]),
    ]
    assert differing_keys([first, dict(first)]) == []


def test_differences_are_measured_in_their_standard_error() -> None:
    first = [Result("a", "p = 1", "risk", 1.0, 0.3, "mean"), Result("a", "p = 2", "risk", 2.0, None, "median")]
    second = [Result("b", "p = 1", "risk", 2.0, 0.4, "mean"), Result("b", "p = 2", "risk", 2.5, 0.1, "mean")]
    near, median = paired(first, second)
    # sqrt(0.09 + 0.16) = 0.5
    assert (near.difference, near.z) == (1.0, pytest.approx(2.0, rel=1e-15))
    assert (median.difference, median.z) == (0.5, None)


def test_several_curves_are_matched_by_label() -> None:
    first = [Result(name, "p = 1", "risk", 1.0, 0.1, "mean") for name in ("a", "b")]
    second = [Result(name, "p = 1", "risk", 3.0, 0.1, "mean") for name in ("b", "c")]
    assert [(pair.curve, pair.difference) for pair in paired(first, second)] == [("b", 2.0)]


def test_rounding_is_no_standard_error() -> None:
    first, second = (Result("a", "p = 1", "bias", value, 5e-19, "mean") for value in (0.1, 0.1 + 1e-16))
    assert paired([first], [second])[0].z is None
