"""A key that a problem is said not to read makes no difference to its rows."""

from dataclasses import fields, replace
from typing import Any

import pytest

from lab.experiments.hmm_risk.config import (
    DiscreteConfig,
    Generator,
    HmmRiskConfig,
    LinearGaussianConfig,
    Loading,
    RepresentationConfig,
    RepresentationName,
    SizeMap,
    Start,
    TaskConfig,
    TaskName,
    Transition,
)
from lab.experiments.hmm_risk.grid.cell import Cell
from lab.experiments.hmm_risk.grid.expand import expand
from lab.experiments.hmm_risk.grid.keys import READERS, shipped_keys
from lab.experiments.hmm_risk.job import table_rows
from lab.experiments.hmm_risk.pool import build_work

MODES = LinearGaussianConfig(loading=Loading.identity, state_dim=None)
LABEL = TaskConfig(name=TaskName.downstream_label, num_outputs=2)
DISCRETE = DiscreteConfig(num_states=4, num_tokens=5)
LIFTED = RepresentationConfig(name=RepresentationName.lifted_posterior)
PROBLEMS: dict[str, dict[str, Any]] = {
    "modes": {"hmm": MODES},
    "modes, snr": {"hmm": MODES, "snr": 1.0},
    "modes, dependent rows": {"hmm": MODES, "tokens_per_sequence": 2},
    "modes, label": {"hmm": LinearGaussianConfig(loading=Loading.identity, state_dim=8), "task": LABEL},
    "token": {"hmm": LinearGaussianConfig(state_dim=3), "context_length": 2},
    "token, dependent rows": {"hmm": LinearGaussianConfig(state_dim=3), "tokens_per_sequence": 2},
    "window": {
        "hmm": LinearGaussianConfig(state_dim=3, transition=Transition.symmetric),
        "representation": RepresentationConfig(name=RepresentationName.context_window, window=2),
        "context_length": 3,
    },
    "Kalman": {
        "hmm": LinearGaussianConfig(state_dim=8),
        "representation": RepresentationConfig(name=RepresentationName.kalman_state, observation_dim=4),
        "context_length": 3,
    },
    "posterior": {
        "hmm": DISCRETE,
        "representation": RepresentationConfig(name=RepresentationName.posterior),
        "widths": None,
        "gammas": shipped_keys()["gammas"],
        "population_sequences": 1000,
    },
    "lifted": {"hmm": DISCRETE, "representation": LIFTED, "population_sequences": 1000},
    "lifted, label": {
        "hmm": replace(DISCRETE, generator=Generator.permutations),
        "representation": LIFTED,
        "task": LABEL,
        "num_test": 20,
    },
}
OTHER: dict[str, Any] = {
    "hmm.lowest_eigenvalue": 0.3,
    "hmm.state_noise": 0.4,
    "hmm.start": Start.identity,
    "hmm.transition_concentration": 3.0,
    "hmm.emission_concentration": 3.0,
    "hmm.start_temperature": 3.0,
    "hmm.transition_temperature": 3.0,
    "hmm.emission_temperature": 3.0,
    "representation.window": 3,
    "representation.observation_dim": 7,
    "representation.size_map": SizeMap.random_projection,
    "representation.num_features": 12,
    "task.num_outputs": 3,
    "task.decay": 2.0,
    "tokens_per_sequence": 5,
    "context_length": 4,
    "observation_noise": 0.9,
    "snr": 0.7,
    "population_sequences": 2000,
    "rank_tolerance": 0.5,
}
# every registered head has a ridge; widths and gammas are resolved before there is a problem
NOT_CHANGED = {"ridge", "widths", "gammas"}


def cell_of(name: str) -> Cell:
    (cell,) = expand(HmmRiskConfig(**({"num_train": 10, "widths": [4, 8], "figures": []} | PROBLEMS[name])))
    return cell


def changed(cell: Cell, key: str) -> Cell | None:
    """The cell with another value of a key; None if its HMM has no such key."""
    part, _, name = key.rpartition(".")
    if not part:
        return replace(cell, **{name: OTHER[key]})
    config = getattr(cell, part)
    if name not in {field.name for field in fields(config)}:
        return None
    return replace(cell, **{part: replace(config, **{name: OTHER[key]})})


def rows_of(cell: Cell) -> str:
    work = build_work(cell)
    hidden = ("rank_tolerance",)
    return repr([{key: row[key] for key in row if key not in hidden} for row in (*work.theory(), *work.measure(0))])


def test_every_key_that_somebody_does_not_read_is_tried() -> None:
    assert OTHER.keys() | NOT_CHANGED == READERS.keys()


@pytest.mark.parametrize("name", PROBLEMS)
def test_a_key_that_a_problem_does_not_read_changes_nothing(name: str) -> None:
    cell = cell_of(name)
    expected = rows_of(cell)
    for key in OTHER:
        if not READERS[key].include(cell) and (other := changed(cell, key)) is not None:
            assert rows_of(other) == expected, key


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_table_has_the_columns_that_figures_may_draw(name: str) -> None:
    cell = cell_of(name)
    work = build_work(cell)
    rows = [{"kind": "theory", **row} for row in work.theory()] + [
        {"kind": "measured", **row} for row in work.measure(0)
    ]
    for row in table_rows(rows, [cell]):
        for column in cell.quantities:
            assert isinstance(row[column], float), column
