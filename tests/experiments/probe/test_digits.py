"""Digits through random features: measured risk and its line against scikit-learn's error on held-out rows."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lab.experiments.probe.results import Results

NUM_FEATURES, NUM_TRAIN, SPLITS = 500, 100, 12


@pytest.mark.slow
def test_the_elliptical_line_is_near_the_error_of_held_out_digits(
    probe: Callable[..., Path], results_of: Callable[[Path], Results], tmp_path: Path
) -> None:
    datasets, linear_model = (pytest.importorskip(f"sklearn.{name}") for name in ("datasets", "linear_model"))
    rng = np.random.default_rng(0)
    pixels, labels = datasets.load_digits(return_X_y=True)
    weights = rng.standard_normal((pixels.shape[1], NUM_FEATURES))
    features = np.maximum(pixels @ weights / np.linalg.norm(pixels, axis=1, keepdims=True), 0.0)
    np.savez(path := tmp_path / "digits.npz", features=features, labels=labels)
    words = (f"num_train=[{NUM_TRAIN}]", "widths=[60,500]", "ridge=[0.001,0.01]", f"draws={SPLITS}", "folds=0")
    results = results_of(probe(f"features={path}", "basis=as_given", "figures=[]", *words))
    targets, orders = np.eye(10)[labels], [rng.permutation(labels.size) for _ in range(SPLITS)]
    assert len(results.points) == 4
    for point in results.points:
        held_out = []
        for order in orders:
            chosen, others = order[:NUM_TRAIN], order[NUM_TRAIN:]
            head = linear_model.Ridge(alpha=NUM_TRAIN * point.ridge, fit_intercept=False)
            head.fit(features[chosen, : point.width], targets[chosen])
            errors = head.predict(features[others, : point.width]) - targets[others]
            held_out.append(float(np.mean(np.sum(errors**2, axis=1))))
        expected = np.mean(held_out)
        spread = np.sqrt((np.var(held_out, ddof=1) + np.var(point.risks, ddof=1)) / SPLITS)
        assert abs(point.mean - expected) < 4 * spread
        assert point.lines["elliptical"] == pytest.approx(expected, rel=0.1)
