"""The rows that a problem draws have the second moments that it states, at every width."""

import math
from typing import Any

import numpy as np
import pytest

from lab.core.errors import ConfigError
from lab.experiments.hmm_risk.config import (
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
from lab.experiments.hmm_risk.pool import build_problem, build_work

NUM_ROWS = 60_000

MODES = LinearGaussianConfig(loading=Loading.identity, state_dim=None, spectral_radius=0.95)
FACTORS = LinearGaussianConfig(state_dim=3)

PROBLEMS: dict[str, dict[str, Any]] = {
    "modes, rotations": {"hmm": MODES, "snr": 5},
    "modes, slow": {
        "hmm": LinearGaussianConfig(
            loading=Loading.identity, state_dim=None, transition=Transition.symmetric, spectral_radius=0.9
        )
    },
    "modes, label": {
        "hmm": LinearGaussianConfig(loading=Loading.identity, state_dim=8),
        "task": TaskConfig(name=TaskName.downstream_label, num_outputs=2, decay=1.0),
        "observation_noise": 0.2,
        "snr": 3,
    },
    "modes, label, projected": {
        "hmm": LinearGaussianConfig(loading=Loading.identity, state_dim=8),
        "task": TaskConfig(name=TaskName.downstream_label, decay=1.0),
        "representation": RepresentationConfig(size_map=SizeMap.random_projection),
        "snr": 1,
    },
    "state": {"hmm": FACTORS},
    "state, from N(0, I)": {
        "hmm": LinearGaussianConfig(state_dim=3, transition=Transition.general, state_noise=1.0, start=Start.identity),
        "context_length": 3,
    },
    "token": {"hmm": FACTORS, "task": TaskConfig(name=TaskName.next_token)},
    "label": {"hmm": FACTORS, "task": TaskConfig(name=TaskName.downstream_label, num_outputs=2)},
    "projected": {
        "hmm": FACTORS,
        "representation": RepresentationConfig(size_map=SizeMap.random_projection, num_features=30),
    },
    "window": {
        "hmm": LinearGaussianConfig(state_dim=3, transition=Transition.general, state_noise=1.0, start=Start.identity),
        "representation": RepresentationConfig(name=RepresentationName.context_window, window=3),
        "context_length": 4,
    },
    "Kalman": {
        "hmm": LinearGaussianConfig(state_dim=8, transition=Transition.symmetric),
        "representation": RepresentationConfig(name=RepresentationName.kalman_state, observation_dim=4),
        "context_length": 4,
    },
    "several rows a sequence": {"hmm": FACTORS, "tokens_per_sequence": 5},
}


def cell_of(**fields: Any) -> Cell:
    (cell,) = expand(HmmRiskConfig(**({"num_train": 10, "widths": [4, 8]} | fields)))
    return cell


@pytest.mark.parametrize("name", PROBLEMS)
def test_rows_have_the_moments_that_the_population_states(name: str) -> None:
    problem = build_problem(cell_of(**PROBLEMS[name]))
    rows = problem.rows("train", 0, NUM_ROWS)
    for width in (4, 8):
        features = rows.features[:, :width]
        targets = rows.targets[:, : problem.population.num_outputs(width)]
        covariance, coefficients = problem.population.dense(width)
        # entries of a sample covariance have a standard error of at most sqrt(2) s / sqrt(n); rows of one sequence are
        # correlated, which costs a factor of about 2; five standard errors over some hundred entries
        tolerance = 5 * 2 * np.sqrt(2 / NUM_ROWS)
        scale = np.sqrt(np.outer(np.diag(covariance), np.diag(covariance)))
        np.testing.assert_array_less(np.abs(features.T @ features / NUM_ROWS - covariance) / scale, tolerance)
        # the best head is known up to a rotation of the outputs: compare B B' and the risk
        fitted = np.linalg.solve(features.T @ features, features.T @ targets)
        scale = np.sqrt(np.sum(coefficients**2))
        np.testing.assert_allclose(fitted @ fitted.T, coefficients @ coefficients.T, atol=0.05 * scale**2)
        residual = np.mean(np.sum((targets - features @ fitted) ** 2, axis=1))
        np.testing.assert_allclose(residual, problem.population.noise_trace(width), rtol=tolerance)
        null = np.mean(np.sum(targets**2, axis=1))
        np.testing.assert_allclose(null, problem.population.target_trace(width), rtol=tolerance)


@pytest.mark.parametrize("name", PROBLEMS)
def test_a_wider_grid_leaves_the_first_features_as_they_were(name: str) -> None:
    fields = PROBLEMS[name]
    if fields["hmm"].state_dim == 8:
        pytest.skip("the full model has eight features")
    narrow = build_problem(cell_of(**fields)).rows("train", 3, 20)
    wide = build_problem(cell_of(**fields, widths=[4, 8, 30])).rows("train", 3, 20)
    np.testing.assert_array_equal(wide.features[:, :8], narrow.features[:, :8])


def test_dependent_rows_have_risk_and_theory_at_every_ridge() -> None:
    fields = {"num_train": 60, "widths": [20, 60, 120], "tokens_per_sequence": 6, "ridge": [0.0, 0.3]}
    work = build_work(cell_of(hmm=MODES, snr=5, **fields))
    theory = {(row["width"], row["ridge"]): row["theory_excess_risk"] for row in work.theory()}
    measured: dict[tuple[int, str], list[float]] = {}
    for replicate in range(20):
        for row in work.measure(replicate):
            measured.setdefault((row["width"], row["ridge"]), []).append(row["bias"] + row["variance"])
    assert theory.keys() == measured.keys() == {(width, ridge) for width in (20, 60, 120) for ridge in ("0", "0.3")}
    for width in (20, 60, 120):
        # the standard error is 1 to 2 %
        assert np.mean(measured[width, "0.3"]) == pytest.approx(theory[width, "0.3"], rel=0.05)
    assert np.mean(measured[60, "0"]) > 10 * np.mean(measured[60, "0.3"])


def kalman_cell(*, state_dim: int, context_length: int) -> Cell:
    return cell_of(
        hmm=LinearGaussianConfig(state_dim=state_dim, transition=Transition.symmetric),
        representation=RepresentationConfig(name=RepresentationName.kalman_state, observation_dim=1),
        context_length=context_length,
    )


def test_fewer_numbers_than_directions_of_the_state_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"context_length=7: 7 numbers are observed, .* not 8; raise it or"):
        kalman_cell(state_dim=8, context_length=7)


def test_a_state_that_the_tokens_tell_of_by_rounding_alone_is_refused() -> None:
    # forty slow modes through one feature: enough tokens in number, and numerically alike
    problem = build_problem(kalman_cell(state_dim=40, context_length=50))
    message = r"representation\.observation_dim=1 with context_length=50: the tokens determine"
    with pytest.raises(ConfigError, match=message):
        _ = problem.population


def test_draws_differ_between_replicates_and_between_training_and_test() -> None:
    problem = build_problem(cell_of(hmm=MODES, snr=5))
    draws = [problem.rows(stream, replicate, 10).features for stream in ("train", "test") for replicate in (0, 1)]
    for first in range(4):
        for second in range(first):
            assert not np.any(draws[first] == draws[second])


def test_without_signal_the_best_head_predicts_zero() -> None:
    # the next token of a state without memory is noise, of variance 1 for each output
    config = HmmRiskConfig(
        hmm=LinearGaussianConfig(state_dim=3, spectral_radius=0.0),
        num_train=12,
        num_test=8,
        widths=[5, 20],
        ridge=["optimal", 0.0],
        observation_noise=0.5,
    )
    (cell,) = expand(config)
    work = build_work(cell)
    best, *_ = work.theory()
    assert (best["ridge_strength"], best["ridge"]) == (math.inf, "optimal")
    rows = [row for row in work.measure(0) if row["ridge"] == "optimal"]
    assert [(row["bias"], row["variance"], row["weight_norm"]) for row in rows] == [(0, 0, 0)] * 2
    assert rows[0]["test_risk"] == rows[1]["test_risk"] > 0
