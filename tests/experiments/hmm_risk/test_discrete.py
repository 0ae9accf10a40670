"""Sweeps over discrete HMMs, from the draws to the verdict, and their exact risk where the outcome is certain."""

import math
from typing import Any

import pytest

from lab.experiments.hmm_risk.config import (
    DiscreteConfig,
    Generator,
    HmmRiskConfig,
    RepresentationConfig,
    RepresentationName,
    TaskConfig,
    TaskName,
)
from lab.experiments.hmm_risk.grid.expand import expand
from lab.experiments.hmm_risk.grid.keys import shipped_keys
from lab.experiments.hmm_risk.job import table_rows
from lab.experiments.hmm_risk.pool import WorkerState
from lab.experiments.hmm_risk.results.report import headline, summary_table
from lab.experiments.hmm_risk.results.summary import curves
from lab.experiments.hmm_risk.results.verdict import verdict
from lab.experiments.hmm_risk.units import units

Row = dict[str, Any]

PROBLEMS: dict[str, dict[str, Any]] = {
    "posterior": {
        "hmm": DiscreteConfig(num_states=[3, 12, 20], num_tokens=6),
        "representation": RepresentationConfig(name=RepresentationName.posterior),
        "task": TaskConfig(name=TaskName.next_token),
    },
    "next-token distribution": {
        "hmm": DiscreteConfig(num_states=[3], num_tokens=6),
        "representation": RepresentationConfig(name=RepresentationName.next_token_distribution),
    },
    "lifted posterior": {
        "hmm": DiscreteConfig(generator=Generator.permutations, num_states=[4], num_tokens=6),
        "representation": RepresentationConfig(name=RepresentationName.lifted_posterior),
        "ridge": [0.0, 0.1, 0.10000001],
    },
}


def table(**fields: Any) -> list[Row]:
    """What a sweep would record."""
    common: dict[str, Any] = {
        "num_train": 12,
        "widths": [3, 12, 20],
        "replicates": 2,
        "context_length": 5,
        "population_sequences": 1000,
    }
    if fields["representation"].name is not RepresentationName.lifted_posterior:
        # as wide as there are states or tokens, whatever the shipped sizes are
        common |= {"widths": None, "gammas": shipped_keys()["gammas"]}
    cells = expand(HmmRiskConfig(**common | fields))
    worker = WorkerState(cells)
    return list(table_rows([row for unit in units(cells) for row in worker.run(unit)], cells))


@pytest.mark.parametrize("name", PROBLEMS)
def test_a_sweep_ends_with_a_summary_and_a_verdict(name: str) -> None:
    rows = table(**PROBLEMS[name])
    assert all(row["gaussian_reference"] and row["bias"] >= 0 and row["variance"] > 0 for row in rows)
    lines = curves(rows)
    columns, body = summary_table(lines)
    # no finite-n line is claimed for posteriors
    assert not {"exact n", "z"} & set(columns)
    assert len(body) == len(rows) / 2
    sentences = verdict(lines, is_one_problem=False)
    assert any("times the Gaussian reference" in sentence for sentence in sentences)
    assert "theory within" not in headline(lines)


def test_one_state_has_nothing_to_learn() -> None:
    # the next state is certain: no noise, no risk
    (first, _) = table(
        hmm=DiscreteConfig(num_states=[1], num_tokens=6),
        representation=RepresentationConfig(name=RepresentationName.posterior),
    )
    assert first["excess_risk"] == pytest.approx(0, abs=1e-20)
    assert (first["noise_floor"], first["snr"]) == (0, math.inf)


def test_strengths_that_differ_in_their_last_digits_are_two() -> None:
    rows = table(**PROBLEMS["lifted posterior"])
    assert [row["ridge"] for row in rows if row["width"] == 3] == ["0"] * 2 + ["0.1"] * 2 + ["0.10000001"] * 2
    assert {(row["ridge"], row["ridge_strength"]) for row in rows} == {
        ("0", 0.0),
        ("0.1", 0.1),
        ("0.10000001", 0.10000001),
    }


def test_only_directions_in_which_features_vary_count() -> None:
    # next-token distributions of 3 states span 3 of 20 directions: theory of p = 3, and its threshold is at n = 3
    for num_train in (4, 12):
        rows = table(
            hmm=DiscreteConfig(num_states=[3], num_tokens=20),
            representation=RepresentationConfig(name=RepresentationName.next_token_distribution),
            task=TaskConfig(name=TaskName.next_token),
            num_train=num_train,
        )
        assert {row["num_directions"] for row in rows} == {3}
        assert rows[0]["theory_variance"] == pytest.approx(rows[0]["noise_floor"] * 3 / (num_train - 3), rel=1e-9)
        (curve,) = curves(rows)
        assert curve.is_near.tolist() == [num_train == 4]
        assert not (curve.has_mean & curve.is_near).any()
