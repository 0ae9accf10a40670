"""Case of `lab bench hmm-risk`: the variance of the head at every width below n, from one QR."""

# Letters: n rows, p width, w widths.

from functools import partial

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from lab.core.heads.decompositions import default_rank_tolerance
from lab.core.heads.population import DiagonalPopulation
from lab.core.heads.risk_by_width import nested_risk
from lab.core.runs.random_streams import Seeds
from lab.experiments.bench.harness import Candidate, Case

_SEEDS = Seeds(0)


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
