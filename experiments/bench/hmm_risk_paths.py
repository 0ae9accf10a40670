"""Cases of `lab bench hmm-risk`: many ridge strengths from one decomposition, and every width below n from one QR."""

# Letters: n rows, p width, m outputs, w widths.

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from lab.core.heads.decompositions import default_rank_tolerance
from lab.core.heads.linear_head import ridge_path
from lab.core.heads.population import DiagonalPopulation
from lab.core.heads.risk_by_width import nested_risk
from lab.core.runs.random_streams import Seeds
from lab.experiments.bench.harness import Candidate, Case, Missing
from lab.experiments.bench.machine import load_optional

_SEEDS = Seeds(0)


def ridge_case(num_train: int, width: int, num_outputs: int, num_strengths: int, cure: str) -> Case:
    """Heads for a whole grid of ridge strengths, against scikit-learn's Ridge once for each."""
    features = _SEEDS.numpy("ridge/features", width).standard_normal((num_train, width))
    targets = _SEEDS.numpy("ridge/targets", width).standard_normal((num_train, num_outputs))
    strengths = [float(strength) for strength in np.geomspace(1e-3, 10.0, num_strengths)]
    reference = [_ridge_head(features, targets, strength) for strength in strengths]

    def difference(heads: Sequence[Float64[ndarray, "p m"]]) -> float:
        pairs = zip(heads, reference, strict=True)
        return max(float(np.max(np.abs(head - exact)) / np.max(np.abs(exact))) for head, exact in pairs)

    candidate = partial(Candidate, difference=difference, tolerance=1e-8, unit="of the largest weight")
    linear_model = load_optional("sklearn.linear_model")
    others: list[Candidate | Missing] = []
    for solver, required_ratio in (("auto", 6.0), ("svd", None)):
        name = f"scikit-learn Ridge({solver})"
        if linear_model is None:
            others.append(Missing(name, cure))
        else:
            run = partial(_sklearn_path, linear_model.Ridge, solver, features, targets, strengths)
            others.append(candidate(name=name, run=run, required_ratio=required_ratio))
    rtol = default_rank_tolerance(*features.shape)
    return Case(
        name=f"ridge path, p = {width}, m = {num_outputs}",
        setting=f"heads at {num_strengths} ridge strengths, n = {num_train} rows, p features, m outputs",
        ours=candidate(name="lab ridge_path", run=lambda: ridge_path(features, targets, strengths, rtol=rtol)),
        others=others,
    )


def _ridge_head(
    features: Float64[ndarray, "n p"], targets: Float64[ndarray, "n m"], strength: float
) -> Float64[ndarray, "p m"]:
    """(X'X + n l I)^-1 X'Y through the smaller of the two Gram matrices."""
    num_train, width = features.shape
    if width <= num_train:
        return np.linalg.solve(features.T @ features + num_train * strength * np.eye(width), features.T @ targets)
    return features.T @ np.linalg.solve(features @ features.T + num_train * strength * np.eye(num_train), targets)


def _sklearn_path(
    ridge: Any,
    solver: str,
    features: Float64[ndarray, "n p"],
    targets: Float64[ndarray, "n m"],
    strengths: Sequence[float],
) -> list[Float64[ndarray, "p m"]]:
    # scikit-learn minimises the sum of squares over rows, ours their mean
    heads = (ridge(alpha=features.shape[0] * strength, fit_intercept=False, solver=solver) for strength in strengths)
    # of one output it returns a vector
    return [head.fit(features, targets).coef_.reshape(targets.shape[1], -1).T for head in heads]


def every_width_case(num_train: int) -> Case:
    """Variance of the head at every p < n, against a pseudo-inverse for each p."""
    features = _SEEDS.numpy("every width").standard_normal((num_train, num_train - 1))
    widths = range(1, num_train)
    # unit noise and no signal: the risk is the variance tr (X'X)^-1
    population = DiagonalPopulation(
        variances=np.ones(num_train - 1), coefficients=np.zeros((num_train - 1, 1)), target_variance=1.0
    )
    rtol = default_rank_tolerance(*features.shape)
    num_compared = num_train * 9 // 10
    reference = np.array(
        [np.trace(np.linalg.inv(features[:, :p].T @ features[:, :p])) for p in range(1, num_compared + 1)]
    )

    def difference(variances: Float64[ndarray, " w"]) -> float:
        return float(np.max(np.abs(variances[:num_compared] / reference - 1)))

    candidate = partial(Candidate, difference=difference, tolerance=1e-8, unit="relative")

    def ours() -> Float64[ndarray, " w"]:
        return nested_risk(features, population, widths, rtol=rtol).variance[:, 0]

    return Case(
        name="every width",
        setting=f"variance of the head at all widths p = 1 to {num_train - 1}, one draw of n = {num_train} rows",
        ours=candidate(name="lab nested_risk, one QR", run=ours),
        others=[
            candidate(name="numpy pinv for each width", run=partial(_pinv_variances, features), required_ratio=200.0)
        ],
    )


def _pinv_variances(features: Float64[ndarray, "n p"]) -> Float64[ndarray, " p"]:
    return np.array([np.sum(np.linalg.pinv(features[:, :p]) ** 2) for p in range(1, features.shape[1] + 1)])
