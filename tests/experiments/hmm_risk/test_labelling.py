"""Labellings with almost one class only are drawn again, and constant guesses against a library."""

import numpy as np
import pytest
from scipy import stats

from lab.core.errors import ConfigError
from lab.core.runs.random_streams import Seeds
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
from lab.experiments.hmm_risk.pool import build_work
from lab.experiments.hmm_risk.problems.labelling import best_constant, classes, draw_labelling


def test_a_labelling_with_one_class_is_drawn_again_until_there_are_two() -> None:
    # two states, each certain for half of the sequences: a class decides by the sign of w_1 - w_2
    first = np.repeat(np.eye(2), 50, axis=0)
    rejected = []
    for seed in range(40):
        labelling = draw_labelling(first, 2, Seeds(seed), fewest_rows=100, what="a problem")
        assert np.bincount(classes(first, labelling.weights)).tolist() == [50, 50]
        rejected.append(labelling.num_rejected)
    # half of the pairs of weights separate the two states
    assert 0 in rejected
    assert max(rejected) > 1


def test_a_task_that_has_one_class_whatever_the_weights_is_refused() -> None:
    first = np.tile([[0.25, 0.75]], (100, 1))
    with pytest.raises(ConfigError, match=r"a problem: in each of 100 labellings fewer than 10 % .* one class"):
        draw_labelling(first, 3, Seeds(0), fewest_rows=20, what="a problem")


def test_a_constant_guess_has_the_share_of_the_largest_class_and_the_entropy() -> None:
    labels = np.array([0, 2, 2, 2, 0, 1, 2, 2])
    accuracy, log_loss = best_constant(labels)
    assert accuracy == 5 / 8
    assert log_loss == pytest.approx(stats.entropy([2 / 8, 1 / 8, 5 / 8]), rel=1e-14)
    assert best_constant(np.zeros(4, dtype=np.int64)) == (1.0, 0.0)


def test_rows_of_classes_hold_the_constant_guess_on_the_same_test_rows() -> None:
    (cell,) = expand(
        HmmRiskConfig(
            hmm=DiscreteConfig(generator=Generator.permutations, num_states=4, num_tokens=5),
            representation=RepresentationConfig(name=RepresentationName.lifted_posterior),
            task=TaskConfig(name=TaskName.downstream_label, num_outputs=2),
            num_train=20,
            num_test=30,
            widths=[5],
            context_length=6,
            problems=2,
            figures=[],
        )
    )
    rows = [row for number in range(2) for row in build_work(cell, number).measure(0)]
    for row in rows:
        share = row["constant_accuracy"]
        assert 0.5 <= share < 1
        assert round(30 * share) == pytest.approx(30 * share)
        assert row["constant_log_loss"] == pytest.approx(stats.entropy([share, 1 - share]), rel=1e-12)
    assert rows[0]["problem"] == 0
    assert rows[1]["problem"] == 1
