"""The line of the theory between the dots, against the theory itself at every width."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from lab.experiments.hmm_risk.cell_work import IndependentRows
from lab.experiments.hmm_risk.config import (
    HmmRiskConfig,
    LinearGaussianConfig,
    Loading,
    RepresentationConfig,
    RepresentationName,
    SizeMap,
    TaskConfig,
    TaskName,
    Transition,
)
from lab.experiments.hmm_risk.grid.expand import expand
from lab.experiments.hmm_risk.pool import WorkerState, build_work
from lab.experiments.hmm_risk.rows import Row
from lab.experiments.hmm_risk.theory_lines.table import theory_lines
from lab.experiments.hmm_risk.units import Piece, Unit, recorded_pieces

GROWING = LinearGaussianConfig(loading=Loading.identity, state_dim=None, spectral_radius=0.95)
SYMMETRIC = replace(GROWING, transition=Transition.symmetric)
FIXED = LinearGaussianConfig(state_dim=8)
PROJECTED = RepresentationConfig(size_map=SizeMap.random_projection)
SLOW_STATES = LinearGaussianConfig(state_dim=100, transition=Transition.symmetric)
MODES = {
    "hmm": replace(GROWING, state_dim=120),
    "task": TaskConfig(name=TaskName.downstream_label, decay=1.5),
    "snr": 3,
}
# few dots, far apart: everything between them is interpolated
COARSE = {"num_train": 40, "widths": [2, 12, 38, 46, 120]}
CASES: dict[str, dict[str, Any]] = {
    "growing": {"hmm": GROWING, **COARSE, "snr": 5},
    "growing, small ridge": {"hmm": GROWING, **COARSE, "snr": 1, "ridge": [0, 1e-3, "optimal"]},
    "fixed state, little noise": {"hmm": FIXED, **COARSE, "observation_noise": 0.1},
    "next token": {"hmm": FIXED, **COARSE, "task": TaskConfig(name=TaskName.next_token)},
    "several rows a sequence": {"hmm": SYMMETRIC, **COARSE, "tokens_per_sequence": 5},
    # theory at each width is that of directions, or of a loading, that were drawn: a rough line
    "random projection": {"hmm": FIXED, **COARSE, "representation": PROJECTED},
    "random projection, ridge": {"hmm": FIXED, **COARSE, "representation": PROJECTED, "ridge": [0.01, "optimal"]},
    "random projection of modes": {**MODES, **COARSE, "representation": PROJECTED},
    "state of a filter": {
        "hmm": replace(SLOW_STATES, state_dim=40),
        "representation": RepresentationConfig(name=RepresentationName.kalman_state, observation_dim=20),
        "num_train": 15,
        "widths": [2, 12, 18, 40],
        "context_length": 5,
    },
    "several rows of a drawn loading": {"hmm": SLOW_STATES, **COARSE, "tokens_per_sequence": 4},
}
SLOW = {
    "growing, small ridge",
    "several rows a sequence",
    "several rows of a drawn loading",
    "random projection, ridge",
}
DRAWN = ("theory_excess_risk", "theory_prediction_risk", "theory_bias", "theory_variance", "theory_exact")


def rows_of(config: HmmRiskConfig) -> list[Row]:
    worker = WorkerState(expand(config))
    return [row for problem in range(config.problems) for row in worker.run(Unit(0, problem, with_theory=True))]


def theory_at_every_width(config: HmmRiskConfig, widths: np.ndarray, ridge: str, problem: int = 0) -> list[Any]:
    """Evaluated directly: nothing is interpolated."""
    (cell,) = expand(config)
    work = build_work(cell, problem)
    assert isinstance(work, IndependentRows)
    everywhere = type(work)(replace(cell, widths=tuple(widths.tolist())), work.problem, problem)
    return [row for row in everywhere.theory() if row["ridge"] == ridge]


def drawn(gamma: np.ndarray, values: np.ndarray, at: np.ndarray) -> np.ndarray:
    """The polyline through points, as an axis with two logarithms shows it."""
    with np.errstate(divide="ignore"):
        return np.exp(np.interp(np.log(at), np.log(gamma), np.log(values)))


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param(settings, id=name, marks=[pytest.mark.slow] if name in SLOW else [])
        for name, settings in CASES.items()
    ],
)
def test_the_drawn_line_is_the_theory_between_the_dots(settings: dict[str, Any]) -> None:
    config = HmmRiskConfig(replicates=2, **settings)
    cells, rows = expand(config), rows_of(config)
    n, step = cells[0].num_train, config.hmm.features_per_step
    for (_, ridge), line in theory_lines(rows, cells).items():
        widths = np.arange(2, cells[0].widths[-1] + 1, step)
        truth = theory_at_every_width(config, widths, ridge)
        for name in DRAWN:
            expected = np.array([row[name] for row in truth])
            sides = [widths < n, widths > n] if ridge == "0" else [widths > 0]
            for side in sides:
                known = side & np.isfinite(expected) & (expected > 0)
                inside = np.isfinite(line[name]) & (line[name] > 0)
                inside &= np.isin(line["width"], widths[side])
                if known.any():
                    at = widths[known]
                    # theory that is known up to the threshold is drawn up to it
                    assert {at[0], at[-1]} <= set(line["width"][inside].tolist()), (ridge, name)
                    found = drawn(line["gamma"][inside], line[name][inside], at / n)
                    assert found == pytest.approx(expected[known], rel=5e-3), (ridge, name)


def test_lines_are_averaged_over_problems() -> None:
    config = HmmRiskConfig(hmm=FIXED, num_train=20, widths=[5, 10, 40], problems=3, replicates=2)
    (line,) = theory_lines(rows_of(config), expand(config)).values()
    widths = np.array([5, 8, 10, 24, 33, 40])
    each = [theory_at_every_width(config, widths, "0", problem) for problem in range(3)]
    mean = np.mean([[row["theory_excess_risk"] for row in rows] for rows in each], axis=0)
    assert np.ptp([rows[1]["theory_excess_risk"] for rows in each]) > 0.01 * mean[1]
    for side in (widths < 20, widths > 20):
        shown = (line["gamma"] < 1) == (widths[side][0] < 20)
        found = drawn(line["gamma"][shown], line["theory_excess_risk"][shown], widths[side] / 20)
        assert found == pytest.approx(mean[side], rel=5e-3)


def test_problems_without_lines_are_not_averaged_with_others() -> None:
    config = HmmRiskConfig(hmm=FIXED, num_train=20, widths=[5, 40], problems=2, replicates=2)
    rows = [row for row in rows_of(config) if row["kind"] == "theory" or row["problem"] == 0]
    assert theory_lines(rows, expand(config)) == {}


def test_a_search_at_every_width_is_not_made_for_a_line() -> None:
    config = HmmRiskConfig(hmm=SYMMETRIC, **COARSE, tokens_per_sequence=5, ridge=["optimal"], replicates=2)
    rows = rows_of(config)
    assert [row["kind"] for row in rows] == ["theory"] * 5
    assert theory_lines(rows, expand(config)) == {}


def test_a_theory_without_all_of_its_line_is_done_again() -> None:
    config = HmmRiskConfig(hmm=FIXED, num_train=20, widths=[5, 40], replicates=2)
    cells, rows = expand(config), rows_of(config)
    assert recorded_pieces(rows, cells) == {Piece(0, 0, None)}
    between = [row for row in rows if row["kind"] == "between"]
    assert between
    for lost in (between[0], between[-1]):
        assert recorded_pieces([row for row in rows if row is not lost], cells) == set()
