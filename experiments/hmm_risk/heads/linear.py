"""Least squares on the features: minimum norm, or ridge regression. Classes are learned as one-hot targets."""

# Letters: n rows, p features, k classes.

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64
from numpy import ndarray

from lab.core.heads.linear_head import LinearHead
from lab.experiments.hmm_risk.head_spec import Classifier, HeadSpec, Prediction

# A linear head's scores are not probabilities: they are clipped, so that a miss costs at most 7 nats of log-loss with
# two classes, and divided by their sum, since the constant guess they are compared with is a probability.
_LEAST_PROBABILITY = 1e-3


@dataclass(kw_only=True, slots=True)
class LinearOptions:
    """The linear head has no further keys: `ridge` and `rank_tolerance` determine it."""


def fit_classes(
    features: Float64[ndarray, "n p"],
    labels: Int64[ndarray, " n"],
    *,
    num_classes: int,
    ridge: float,
    rank_tolerance: float,
    options: LinearOptions,
) -> Classifier:
    """Regress one-hot targets; the class with the largest score is predicted."""
    head = LinearHead.fit(features, np.eye(num_classes)[labels], ridge=ridge, rtol=rank_tolerance)

    def predict(test: Float64[ndarray, "n p"]) -> Prediction:
        scores = head.predict(test)
        probs = np.clip(scores, _LEAST_PROBABILITY, 1 - _LEAST_PROBABILITY)
        return Prediction(scores.argmax(axis=1), probs / probs.sum(axis=1, keepdims=True))

    return Classifier(predict, head.weight_norm, head.rank, "svd")


HEAD = HeadSpec(
    options=LinearOptions,
    reads=frozenset({"ridge", "rank_tolerance"}),
    has_exact_risk=True,
    fit_classes=fit_classes,
)
