"""What every head in experiments/hmm_risk/heads promises; a new file there is tested by being there."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_module

from lab.core.errors import ConfigError
from lab.core.hydra_schema import to_typed
from lab.experiments.hmm_risk.config import HmmRiskConfig, register
from lab.experiments.hmm_risk.grid.expand import expand
from lab.experiments.hmm_risk.head_spec import Classifier
from lab.experiments.hmm_risk.heads import head_name, heads
from lab.experiments.hmm_risk.pool import build_work

NAMES = sorted(heads())
LABELS = ("hmm=dirichlet", "representation=lifted_posterior", "task=downstream_label", "task.num_outputs=3")
SIZES = ("num_train=30", "num_test=40", "widths=[5,60]", "context_length=8", "replicates=2")
SMALL = (*SIZES, "ridge=[0.1]", "observation_noise=0.1", "figures=[]")


def composed(*overrides: str) -> HmmRiskConfig:
    register()
    with initialize_config_module("lab.conf", version_base="1.3"):
        return to_typed(compose("hmm_risk", overrides=list(overrides)), HmmRiskConfig)


def fit(name: str, features: Any, labels: Any, *, ridge: float = 0.05, num_classes: int = 3) -> Classifier:
    spec = heads()[name]
    return spec.fit_classes(
        features, labels, num_classes=num_classes, ridge=ridge, rank_tolerance=1e-12, options=spec.options()
    )


def separated(num_rows: int) -> tuple[Any, Any]:
    """Three classes that lie in three directions."""
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=num_rows)
    return np.eye(3, 6)[labels] * 3 + 0.1 * rng.standard_normal((num_rows, 6)), labels


@pytest.mark.parametrize("name", NAMES)
def test_a_head_has_a_configuration_of_its_name(name: str) -> None:
    config = composed(f"head={name}", *LABELS, *SMALL)
    assert head_name(config.head) == name
    assert (Path(__file__).parents[3] / "conf" / "head" / f"{name}.yaml").exists()


@pytest.mark.parametrize("name", NAMES)
def test_classes_that_lie_apart_are_learned(name: str) -> None:
    features, labels = separated(60)
    head = fit(name, features, labels)
    predicted = head.predict(features)
    np.testing.assert_array_equal(predicted.labels, labels)
    assert predicted.probs.shape == (60, 3)
    assert ((predicted.probs > 0) & (predicted.probs <= 1)).all()
    np.testing.assert_array_equal(predicted.probs.argmax(axis=1), labels)
    assert head.weight_norm > 0
    assert head.effective_rank == 6
    assert head.solved_by


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("width", [1, 4, 20, 50])
def test_more_features_than_rows_and_classes_without_rows_are_no_obstacle(name: str, width: int) -> None:
    rng = np.random.default_rng(1)
    features, labels = rng.standard_normal((20, width)), rng.integers(2, size=20)
    features.flags.writeable = False
    predicted = fit(name, features, labels, num_classes=4).predict(rng.standard_normal((7, width)))
    assert predicted.probs.shape == (7, 4)
    assert (predicted.probs > 0).all()
    np.testing.assert_allclose(predicted.probs.sum(axis=1), 1, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_a_larger_ridge_gives_smaller_weights_and_the_same_data_the_same_head(name: str) -> None:
    features, labels = separated(40)
    norms = [fit(name, features, labels, ridge=ridge).weight_norm for ridge in (0.01, 0.1, 1.0)]
    assert norms == sorted(norms, reverse=True)
    assert fit(name, features, labels, ridge=0.1).weight_norm == norms[1]


@pytest.mark.parametrize("name", NAMES)
def test_a_sweep_over_classes_measures_every_width(name: str) -> None:
    (cell,) = expand(composed(f"head={name}", *LABELS, *SMALL))
    rows = build_work(cell).measure(0)
    assert [row["width"] for row in rows] == [5, 60]
    assert all(0 <= row["accuracy"] <= 1 and row["log_loss"] > 0 for row in rows)


@pytest.mark.parametrize("name", NAMES)
def test_what_a_head_cannot_do_or_does_not_read_is_refused(name: str) -> None:
    spec = heads()[name]
    if not spec.has_exact_risk:
        with pytest.raises(ConfigError, match=f"head={name}: it learns classes only"):
            expand(composed(f"head={name}", "num_train=20", "ridge=[0.1]"))
    if "rank_tolerance" not in spec.reads:
        with pytest.raises(ConfigError, match=r"rank_tolerance=0\.1: only heads with a rank"):
            expand(composed(f"head={name}", *LABELS, *SMALL, "rank_tolerance=0.1"))
    if spec.needs_ridge:
        with pytest.raises(ConfigError, match=f"ridge=0: head={name} has no solution"):
            expand(composed(f"head={name}", *LABELS, *SMALL, "ridge=[0,0.1]"))


def test_the_logistic_head_is_where_its_gradient_vanishes() -> None:
    rng = np.random.default_rng(2)
    features, labels = rng.standard_normal((50, 4)), rng.integers(3, size=50)
    head = fit("logistic", features, labels, ridge=0.3)
    probs = head.predict(np.eye(4)).probs
    # rows of W up to a constant each, which the ridge makes the one of least norm: sum zero
    weight = np.log(probs) - np.log(probs).mean(axis=1, keepdims=True)
    gradient = features.T @ (head.predict(features).probs - np.eye(3)[labels]) / 50 + 0.3 * weight
    assert np.abs(gradient).max() < 1e-6
