"""Means over seeds, against values worked out by hand."""

import pytest

from lab.core.runs.over_seeds import Group, grouped, means
from lab.core.runs.recorded_study import Result


def test_runs_that_differ_in_their_seed_alone_are_a_group() -> None:
    configs = [
        {"n": n, "hmm": {"list": [1]}, "seed": seed, "workers": seed} for n, seed in ((1, 0), (2, 0), (1, 5), (1, 5))
    ]
    keys, groups = grouped(configs)
    assert keys == ["n"]
    assert groups == [Group((1,), (0, 2), (3,)), Group((2,), (1,), ())]
    assert grouped(configs[:1]) == ([], [Group((), (0,), ())])


def test_a_mean_has_the_interval_of_students_t() -> None:
    def run(value: float, summary: str = "mean") -> list[Result]:
        return [Result("a", "p = 1", "risk", value, 0.1, summary), Result("a", "p = 2", "risk", 7.0, None, "mean")]

    first, second = means([run(1.0), run(2.0), run(6.0)])
    # standard deviation sqrt(7), t of two degrees of freedom 4.302653
    assert first[:4] == ("a", "p = 1", "risk", 3.0)
    assert first.half_width == pytest.approx(4.30265273 * (7 / 3) ** 0.5, rel=1e-8)
    assert (first.num_runs, second.half_width) == (3, 0.0)
    (alone, _) = means([run(1.0)])
    assert (alone.value, alone.half_width, alone.num_runs) == (1.0, None, 1)


def test_where_a_run_has_no_mean_there_is_a_median() -> None:
    runs = [
        [Result("a", "p", "risk", value, None, name)]
        for value, name in ((1.0, "mean"), (50.0, "median"), (2.0, "mean"))
    ]
    assert means(runs) == [("a", "p", "risk", 2.0, None, 3, "median")]
