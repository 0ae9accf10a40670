"""Multinomial logistic regression: cross-entropy plus n lambda / 2 of the squared weights, without an intercept."""

# Letters: n rows, p features, k classes.

from dataclasses import dataclass

import numpy as np
import scipy
from jaxtyping import Float64, Int64
from numpy import ndarray

from lab.core.errors import InputError
from lab.core.heads.decompositions import default_rank_tolerance
from lab.core.ranges import LARGEST_COUNT, refuse_outside
from lab.experiments.hmm_risk.head_spec import Classifier, HeadSpec, Prediction


@dataclass(kw_only=True, slots=True)
class LogisticOptions:
    """Keys of the logistic head."""

    max_iterations: int = 1000
    """Maximum number of L-BFGS steps; a fit that needs more is an error."""

    def __post_init__(self) -> None:
        refuse_outside(self, "max_iterations", at_least=1, at_most=LARGEST_COUNT)


def fit_classes(
    features: Float64[ndarray, "n p"],
    labels: Int64[ndarray, " n"],
    *,
    num_classes: int,
    ridge: float,
    rank_tolerance: float,
    options: LogisticOptions,
) -> Classifier:
    """Minimise mean cross-entropy + ridge / 2 ||W||^2, which is strictly convex, by L-BFGS.

    Raises:
        InputError: if it does not converge within the steps.
    """
    num_rows, width = features.shape
    targets = np.eye(num_classes)[labels]

    def objective(flat: Float64[ndarray, " pk"]) -> tuple[float, Float64[ndarray, " pk"]]:
        weight = flat.reshape(width, num_classes)
        log_probs = scipy.special.log_softmax(features @ weight, axis=1)
        gradient = features.T @ (np.exp(log_probs) - targets) / num_rows + ridge * weight
        value = -float(np.sum(targets * log_probs)) / num_rows + ridge / 2 * float(np.sum(weight**2))
        return value, gradient.ravel()

    start = np.zeros(width * num_classes)
    options_of_solver = {"maxiter": options.max_iterations, "maxfun": 2 * options.max_iterations}
    # the objective is at most log k, so this gradient is small in comparison
    solved = scipy.optimize.minimize(
        objective, start, jac=True, method="L-BFGS-B", tol=1e-9, options=options_of_solver | {"gtol": 1e-7}
    )
    if not solved.success:
        raise InputError(
            f"head.max_iterations={options.max_iterations} does not suffice for width {width} with ridge={ridge:g}; "
            "raise either"
        )
    weight = solved.x.reshape(width, num_classes)

    def predict(test: Float64[ndarray, "n p"]) -> Prediction:
        probs = scipy.special.softmax(test @ weight, axis=1)
        return Prediction(probs.argmax(axis=1), probs)

    rank = int(np.linalg.matrix_rank(features, rtol=default_rank_tolerance(num_rows, width)))
    return Classifier(predict, float(np.linalg.norm(weight)), rank, "l-bfgs")


HEAD = HeadSpec(options=LogisticOptions, reads=frozenset({"ridge"}), needs_ridge=True, fit_classes=fit_classes)
