"""Case of `lab bench hmm-risk`: the risk of the head at every width of a grid, for one draw of the training rows.

Ours computes the risk given the features exactly. The usual loop fits a head for each width and estimates its risk on a
test set. Both use the same rows; the estimate must agree with the exact risk within its standard errors.
"""

# Letters: n rows, d features of the widest head, p width, q state entries, m outputs, w widths.

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64
from numpy import ndarray

from lab.core.heads.decompositions import default_rank_tolerance
from lab.core.heads.factor_population import FactorPopulation
from lab.core.heads.risk_by_width import nested_risk
from lab.core.hmm.linear_gaussian import LinearGaussianHmm, unit_variance_noise
from lab.core.runs.random_streams import Seeds
from lab.experiments.bench.harness import Candidate, Case, Missing
from lab.experiments.bench.machine import load_optional


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepSetting:
    """Sizes of the sweep.

    Attributes:
        num_train: n.
        widths: every p.
        state_dim: q, also the number of outputs: the task is the next state.
        num_test: rows of the test set that the usual loop draws.
        radius: spectral radius of the transition, a scaled rotation.
        observation_noise: standard deviation of each feature's own noise.
    """

    num_train: int
    widths: tuple[int, ...]
    state_dim: int
    num_test: int
    radius: float = 0.8
    observation_noise: float = 0.5


@dataclass(frozen=True, slots=True)
class Reference:
    """Mean and standard error of the prediction risk given the features, written out with dense matrices.

    Attributes:
        excess: its mean over the targets, without the noise floor.
        total: the same with the noise floor.
        standard_error: of an estimate from one draw of the targets and `num_test` test rows.
        is_compared: False within a tenth of p = n, where rounding differs from method to method.
    """

    excess: Float64[ndarray, " w"]
    total: Float64[ndarray, " w"]
    standard_error: Float64[ndarray, " w"]
    is_compared: Bool[ndarray, " w"]


class Sweep:
    """The problem and its draws, which are reproducible: every candidate gets the same rows."""

    def __init__(self, setting: SweepSetting) -> None:
        self.setting = setting
        self._seeds = Seeds(0)
        dim, width = setting.state_dim, max(setting.widths)
        rotation, _ = np.linalg.qr(self._seeds.numpy("transition").standard_normal((dim, dim)))
        transition = setting.radius * rotation
        loading = self._seeds.numpy("loading").standard_normal((width, dim)) / np.sqrt(dim)
        self.hmm = LinearGaussianHmm(
            transition=transition,
            loading=loading,
            state_noise_covariance=unit_variance_noise(transition),
            observation_noise=setting.observation_noise,
            initial_covariance=np.eye(dim),
        )
        self.population = FactorPopulation(
            loading=loading,
            latent_covariance=np.eye(dim),
            noise_variance=setting.observation_noise**2,
            cross=transition.T,
            target_variances=np.ones(dim),
        )

    def draw(self, purpose: str, num_rows: int) -> tuple[Float64[ndarray, "n d"], Float64[ndarray, "n m"]]:
        """One token of as many sequences, and the states that follow."""
        states = self.hmm.sample_states(num_rows, 2, self._seeds.numpy(f"{purpose}/state"))
        return self.hmm.observe(states[:, 0], self._seeds.numpy(f"{purpose}/observation")), states[:, 1]

    def ours(self) -> Float64[ndarray, " w"]:
        """Exact excess risk of every width's head."""
        features, _ = self.draw("train", self.setting.num_train)
        risks = nested_risk(
            features, self.population, self.setting.widths, rtol=default_rank_tolerance(*features.shape)
        )
        return risks.excess[:, 0]

    def pinv_loop(self) -> Float64[ndarray, " w"]:
        """Test error, with a pseudo-inverse for each width."""
        features, targets = self.draw("train", self.setting.num_train)
        test_features, test_targets = self.draw("test", self.setting.num_test)
        risks = []
        for width in self.setting.widths:
            head = np.linalg.pinv(features[:, :width]) @ targets
            risks.append(np.mean(np.sum((test_targets - test_features[:, :width] @ head) ** 2, axis=1)))
        return np.array(risks)

    def sklearn_loop(self, linear_regression: Any) -> Float64[ndarray, " w"]:
        """Test error, with scikit-learn's LinearRegression for each width."""
        features, targets = self.draw("train", self.setting.num_train)
        test_features, test_targets = self.draw("test", self.setting.num_test)
        risks = []
        for width in self.setting.widths:
            head = linear_regression(fit_intercept=False).fit(features[:, :width], targets)
            risks.append(np.mean(np.sum((test_targets - head.predict(test_features[:, :width])) ** 2, axis=1)))
        return np.array(risks)

    def reference(self) -> Reference:
        """Bias, variance, and the spread of an estimate, for Gaussian targets given the features.

        With E = Y - X B, b = (X^+ X - I) B, c = b' Sigma X^+ and M = X^+' Sigma X^+ the excess risk is
        |Sigma^1/2 (b + X^+ E)|^2: its mean is tr b' Sigma b + tr M tr Sigma_e and its variance
        4 tr c' Sigma_e c + 2 tr M^2 tr Sigma_e^2. A test row's error has about the covariance
        C = b' Sigma b + (1 + tr M) Sigma_e, and its square the variance 2 tr C^2.
        """
        features, _ = self.draw("train", self.setting.num_train)
        rows = [self._moments(features[:, :width]) for width in self.setting.widths]
        excess, total, variance = np.array(rows).T
        distance = np.abs(np.array(self.setting.widths) - self.setting.num_train)
        return Reference(excess, total, np.sqrt(variance), distance >= self.setting.num_train / 10)

    def _moments(self, features: Float64[ndarray, "n p"]) -> tuple[float, float, float]:
        num_train, width = features.shape
        covariance, coefficients = self.population.dense(width)
        if width < num_train:
            inverse = np.linalg.solve(features.T @ features, features.T)
        else:
            inverse = np.linalg.solve(features @ features.T, features).T
        residual = np.eye(coefficients.shape[1]) - coefficients.T @ covariance @ coefficients
        bias = inverse @ (features @ coefficients) - coefficients
        smoothed = covariance @ inverse
        spread = inverse.T @ smoothed
        bias_matrix, cross = bias.T @ covariance @ bias, bias.T @ smoothed
        excess = np.trace(bias_matrix) + np.trace(spread) * np.trace(residual)
        row_covariance = bias_matrix + (1 + np.trace(spread)) * residual
        variance = 4 * np.sum((residual @ cross) * cross) + 2 * np.sum(spread**2) * np.sum(residual**2)
        variance += 2 * np.sum(row_covariance**2) / self.setting.num_test
        return excess, excess + np.trace(residual), variance


def sweep_case(setting: SweepSetting, hint: str) -> Case:
    """Ours against the pseudo-inverse loop and scikit-learn's LinearRegression; `hint` installs what is missing."""
    sweep = Sweep(setting)
    reference = sweep.reference()
    compared = reference.is_compared

    def exact_difference(excess: Float64[ndarray, " w"]) -> float:
        return float(np.max(np.abs(excess / reference.excess - 1)[compared]))

    def estimate_difference(total: Float64[ndarray, " w"]) -> float:
        return float(np.max((np.abs(total - reference.total) / reference.standard_error)[compared]))

    # over some 60 widths, 5 standard errors are exceeded by chance once in 30,000 seeds
    estimate = partial(Candidate, difference=estimate_difference, tolerance=5.0, unit="standard errors")
    others: list[Candidate | Missing] = [
        estimate(name="numpy pinv, test set", run=sweep.pinv_loop, required_ratio=25.0)
    ]
    linear_model = load_optional("sklearn.linear_model")
    if linear_model is None:
        others.append(Missing("scikit-learn LinearRegression, test set", hint))
    else:
        run = partial(sweep.sklearn_loop, linear_model.LinearRegression)
        others.append(estimate(name="scikit-learn LinearRegression, test set", run=run, required_ratio=15.0))
    return Case(
        name="sweep",
        setting=(
            f"risk of the head at {len(setting.widths)} widths {min(setting.widths)} to {max(setting.widths)}, n = "
            f"{setting.num_train} rows, {setting.state_dim} outputs, test set {setting.num_test} rows; one replicate, "
            "drawing included"
        ),
        ours=Candidate(
            name="lab nested_risk, exact",
            run=sweep.ours,
            difference=exact_difference,
            tolerance=1e-8,
            unit="relative",
        ),
        others=others,
    )
