"""`lab bench probe`: all widths, draws and ridge strengths of a probe, against a loop over scikit-learn's Ridge."""

# Letters: N rows, n training rows, d features, m outputs, w widths, r strengths.

from collections.abc import Generator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from lab.core.heads.fitted_risk import fitted_risk
from lab.core.heads.population import DensePopulation
from lab.core.runs.random_streams import Seeds
from lab.experiments.bench.harness import Candidate, Case, Missing, Row
from lab.experiments.bench.machine import load_optional

DISTRIBUTIONS = ("numpy", "scipy", "scikit-learn")
_HINT = "pip install 'ssm-lab[bench]'"
# strengths at which Ridge, which forms X'X or XX', has as many digits as are compared
_RIDGE = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)


@dataclass(frozen=True, slots=True)
class CurveSetting:
    """Sizes."""

    num_rows: int
    num_train: int
    num_features: int
    num_outputs: int
    num_widths: int
    num_draws: int


class CurveWork:
    """Rows of a pool with a decaying spectrum, and draws of training rows from it."""

    def __init__(self, setting: CurveSetting) -> None:
        self.setting = setting
        rng = Seeds(0).numpy("rows")
        scales = np.geomspace(3, 0.1, setting.num_features)
        self._features = rng.standard_normal((setting.num_rows, setting.num_features)) * scales
        head = rng.standard_normal((setting.num_features, setting.num_outputs)) / np.sqrt(setting.num_features)
        noise = rng.standard_normal((setting.num_rows, setting.num_outputs))
        self._targets = self._features @ head + noise
        self._draws = [rng.permutation(setting.num_rows)[: setting.num_train] for _ in range(setting.num_draws)]
        spread = np.linspace(setting.num_features / setting.num_widths, setting.num_features, setting.num_widths)
        self._widths = [round(width) for width in spread]

    def ours(self) -> Float64[ndarray, "w r"]:
        """Mean risk over draws, on all rows; second moments included."""
        rows = self.setting.num_rows
        moments = self._features.T @ self._features / rows, self._features.T @ self._targets / rows
        population = DensePopulation(*moments, float(np.sum(self._targets**2)) / rows)
        found = [
            fitted_risk(self._features[draw], self._targets[draw], population, self._widths, ridge=_RIDGE).risk
            for draw in self._draws
        ]
        return np.asarray(np.mean(found, axis=0))

    def loop(self, ridge: Any) -> Float64[ndarray, "w r"]:
        """The same with a fit and a prediction of all rows for each width and strength."""
        total = np.zeros((len(self._widths), len(_RIDGE)))
        for draw in self._draws:
            for row, width in enumerate(self._widths):
                for column, strength in enumerate(_RIDGE):
                    head = ridge(alpha=self.setting.num_train * strength, fit_intercept=False)
                    head.fit(self._features[draw, :width], self._targets[draw])
                    errors = self._targets - head.predict(self._features[:, :width])
                    total[row, column] += float(np.mean(np.sum(errors**2, axis=1)))
        return total / len(self._draws)


def cases(*, quick: bool) -> Generator[Case, list[Row] | None, None]:
    """One case."""
    full = CurveSetting(num_rows=2000, num_train=400, num_features=576, num_outputs=576, num_widths=40, num_draws=20)
    small = CurveSetting(num_rows=200, num_train=30, num_features=50, num_outputs=8, num_widths=5, num_draws=2)
    setting = small if quick else full
    work = CurveWork(setting)
    reference = work.ours()

    def difference(risk: Float64[ndarray, "w r"]) -> float:
        return float(np.max(np.abs(risk / reference - 1)))

    candidate = partial(Candidate, difference=difference, tolerance=1e-7, unit="relative")
    linear_model = load_optional("sklearn.linear_model")
    name = "scikit-learn Ridge, a fit for each"
    loop: Candidate | Missing = Missing(name, _HINT)
    if linear_model is not None:
        loop = candidate(name=name, run=partial(work.loop, linear_model.Ridge), required_ratio=20.0)
    yield Case(
        name="curve",
        setting=(
            f"mean risk on {setting.num_rows} rows at {setting.num_widths} widths up to {setting.num_features} and "
            f"{len(_RIDGE)} ridge strengths, n = {setting.num_train}, {setting.num_outputs} outputs, "
            f"{setting.num_draws} draws"
        ),
        ours=candidate(name="lab fitted_risk, one decomposition a strength", run=work.ours),
        others=[loop],
        budget_s=1.0,
    )
