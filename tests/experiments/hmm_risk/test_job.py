"""A sweep gives the same numbers however it came to its end, and whatever else is in it."""

import errno
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from lab.core.errors import ConfigError, RunError
from lab.experiments.hmm_risk import pool
from lab.experiments.hmm_risk.config import (
    DiscreteConfig,
    HmmRiskConfig,
    LinearGaussianConfig,
    Loading,
    RepresentationConfig,
    RepresentationName,
    Transition,
)
from lab.experiments.hmm_risk.grid.expand import expand
from lab.experiments.hmm_risk.grid.keys import shipped_keys
from lab.experiments.hmm_risk.job import table_rows
from lab.experiments.hmm_risk.pool import WorkerState, run_all
from lab.experiments.hmm_risk.results.figure_spec import FigureSpec
from lab.experiments.hmm_risk.results.report import summary_table
from lab.experiments.hmm_risk.results.summary import curves
from lab.experiments.hmm_risk.results.verdict import verdict
from lab.experiments.hmm_risk.units import Piece, Unit, count_pieces, recorded_pieces, units

Row = dict[str, Any]
Lab = Callable[..., Any]

# what is computed from the draws; theory of the whole grid stands beside it
MEASURED = ("bias", "variance", "excess_risk")
SMALL = ("num_train=20", "widths=[6,10,40]", "replicates=3", "figures=[excess_risk]")
# about 4 s of work, recorded in pieces: long enough to be killed in the middle
LONG = ("num_train=120", "widths=[20,60,120,200,300]", "replicates=60", "figures=[excess_risk]")


def problem(**changes: Any) -> HmmRiskConfig:
    """A state that grows with the width, as in the default configuration, or one of fixed size."""
    hmm = changes.pop("hmm", None) or LinearGaussianConfig(
        loading=Loading.identity, state_dim=None, spectral_radius=0.95
    )
    settings: dict[str, Any] = {"num_train": 12, "widths": [4, 6, 24], "replicates": 3, "ridge": [0.0, 0.5]}
    return HmmRiskConfig(hmm=hmm, **(settings | changes))


def table_of(config: HmmRiskConfig, workers: int = 1) -> list[Row]:
    cells = expand(config)
    rows = [row for _, rows in run_all(cells, list(units(cells)), workers) for row in rows]
    return list(table_rows(rows, cells))


def exact(rows: list[Row]) -> str:
    """Rows to the last digit; NaN, which stands where there is no such line, equals itself here."""
    return json.dumps(rows)


def measured(rows: list[Row], *keys: str) -> dict[tuple[Any, ...], tuple[float, ...]]:
    """Measured numbers by what they belong to."""
    return {tuple(row[key] for key in keys): tuple(row[name] for name in MEASURED) for row in rows}


def test_workers_that_cannot_be_started_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object, **more: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(pool, "ProcessPoolExecutor", full)
    with pytest.raises(RunError, match=r"workers cannot be started \(No space left .*workers=1 goes on without"):
        table_of(problem(), workers=2)


FIXED = LinearGaussianConfig(state_dim=8)
PROBLEMS = {"growing state": problem, "fixed state": lambda **changes: problem(hmm=FIXED, **changes)}
by_problem = pytest.mark.parametrize("make", PROBLEMS.values(), ids=PROBLEMS.keys())


@by_problem
def test_the_same_seed_gives_the_same_table(make: Callable[..., HmmRiskConfig]) -> None:
    assert exact(table_of(make())) == exact(table_of(make()))
    assert measured(table_of(make(seed=1)), "width") != measured(table_of(make()), "width")


@by_problem
def test_the_order_of_work_makes_no_difference(make: Callable[..., HmmRiskConfig]) -> None:
    cells = expand(make())
    backwards = list(units(cells))[::-1]
    worker = WorkerState(cells)
    rows = [row for unit in backwards for row in worker.run(unit)]
    assert exact(list(table_rows(rows, cells))) == exact(table_of(make()))


@by_problem
@pytest.mark.parametrize(
    ("key", "few", "many"),
    [
        ("width", {"widths": [4, 6, 24]}, {"widths": [4, 6, 8, 12, 24]}),
        ("observation_noise", {"observation_noise": [0.5]}, {"observation_noise": [0.3, 0.5, 0.8]}),
        ("num_train", {"num_train": [12]}, {"num_train": [8, 12]}),
        ("replicate", {"replicates": 3}, {"replicates": 5}),
        ("ridge", {"ridge": [0.5]}, {"ridge": [0.0, 0.5, 1.0]}),
    ],
)
def test_one_more_point_leaves_the_other_rows_as_they_were(
    key: str, few: dict[str, Any], many: dict[str, Any], make: Callable[..., HmmRiskConfig]
) -> None:
    keys = ("num_train", "observation_noise", "width", "ridge", "replicate")
    before, after = measured(table_of(make(**few)), *keys), measured(table_of(make(**many)), *keys)
    assert len(after) > len(before)
    assert {place: after[place] for place in before} == before


def test_a_unit_that_was_cut_short_is_done_again() -> None:
    cells = expand(problem())
    every_unit = list(units(cells))
    worker = WorkerState(cells)
    rows = {unit: worker.run(unit) for unit in every_unit}
    cut, *whole = every_unit
    recorded = [row for unit in whole for row in rows[unit]] + rows[cut][:-1]
    done = recorded_pieces(recorded, cells)
    assert done == {Piece(0, 0, replicate) for replicate in range(3)}
    assert list(units(cells, done)) == [cut] == [Unit(0, with_theory=True)]
    assert list(units(cells, recorded_pieces([], cells))) == every_unit


DISCRETE = HmmRiskConfig(
    hmm=DiscreteConfig(num_states=[3, 7], num_tokens=5),
    representation=RepresentationConfig(name=RepresentationName.posterior),
    num_train=8,
    gammas=shipped_keys()["gammas"],
    context_length=4,
    population_sequences=1000,
    replicates=2,
)


def without_lines(rows: Sequence[Any]) -> int:
    """The number of rows at widths of the grid: as many for each piece."""
    return sum(row["kind"] != "between" for row in rows)


@pytest.mark.parametrize("config", [problem(hmm=FIXED), DISCRETE], ids=["linear-Gaussian", "discrete"])
def test_a_sweep_that_is_extended_ends_like_one_that_was_as_large_from_the_start(config: HmmRiskConfig) -> None:
    small, large = expand(config), expand(replace(config, replicates=4, problems=2))
    worker = WorkerState(small)
    recorded = [row for unit in units(small) for row in worker.run(unit)]
    for kept in (len(recorded), len(recorded) - 3):
        rows = recorded[:kept]
        done = recorded_pieces(rows, large)
        rows = [row for row in rows if Piece.of(row) in done]
        worker = WorkerState(large)
        more = [row for unit in units(large, done) for row in worker.run(unit)]
        # the first problem's draws are as they were, and nothing is computed twice
        assert without_lines(rows + more) == count_pieces(large) * without_lines(recorded) // count_pieces(small)
        whole = table_of(replace(config, replicates=4, problems=2))
        assert exact(list(table_rows(rows + more, large))) == exact(whole)
        first = [row for row in whole if row["problem"] == 0 and row["replicate"] < config.replicates]
        assert exact(first) == exact(table_of(config))


def test_problems_differ_in_what_is_drawn_and_in_their_rows() -> None:
    rows = table_of(problem(hmm=FIXED, problems=3, widths=[4], ridge=[0.0]))
    assert [(row["problem"], row["replicate"]) for row in rows] == [(k, r) for k in range(3) for r in range(3)]
    assert len({row["noise_floor"] for row in rows}) == 3
    assert len({row["excess_risk"] for row in rows}) == 9


@pytest.mark.parametrize("make", [problem, lambda **changes: problem(hmm=FIXED, **changes)])
def test_without_draws_there_is_theory_alone(make: Callable[..., HmmRiskConfig]) -> None:
    config = make(replicates=0)
    rows = table_of(config)
    known = {(row["width"], row["ridge"]): row["theory_excess_risk"] for row in table_of(make())}
    assert {(row["width"], row["ridge"]): row["theory_excess_risk"] for row in rows} == known
    lines = curves(rows)
    columns, body = summary_table(lines)
    assert len(body) == len(rows)
    assert not {"excess", "s.e.", "bias", "total", "summary"} & set(columns)
    assert any("in theory" in sentence for sentence in verdict(lines, is_one_problem=False))


def test_a_figure_of_what_has_no_theory_needs_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = FigureSpec(columns=("weight_norm",), draw=pytest.fail, caption=pytest.fail)
    monkeypatch.setattr("lab.experiments.hmm_risk.grid.expand.figure", lambda name: spec)
    assert expand(problem(figures=["norm"]))
    with pytest.raises(ConfigError, match=r"figures=norm: it draws weight_norm, which has no theory"):
        expand(problem(figures=["norm"], replicates=0))


@pytest.mark.slow
def test_the_interval_of_two_levels_holds_a_known_truth() -> None:
    """100 sweeps of 40 problems: mean and s.e. as they are printed, against the mean of the exact finite-n line."""
    hmm = LinearGaussianConfig(transition=Transition.general, state_dim=8, state_noise=0.6)
    settings: dict[str, Any] = {"hmm": hmm, "num_train": 30, "widths": [6], "ridge": [0.0]}
    theory = table_of(problem(**settings, replicates=0, problems=2500, seed=10**6))
    truth = float(np.mean([row["theory_exact"] for row in theory]))
    covered = narrow = 0
    for seed in range(100):
        columns, (row,) = summary_table(curves(table_of(problem(**settings, replicates=3, problems=40, seed=seed))))
        mean, error, within = (float(row[columns.index(name)] or 0) for name in ("excess", "s.e.", "s.e. within"))
        covered += abs(mean - truth) < 2 * error
        narrow += abs(mean - truth) < 2 * within
    print(f"truth {truth:.5f}; held by {covered} of 100 intervals of both levels, {narrow} of draws of the rows alone")
    assert 92 <= covered <= 98
    assert narrow < covered
