"""Work of a cell with several rows per sequence: exact risk and theory of dependent rows."""

# Letters: w widths, r ridge strengths.

import math
from functools import cached_property

import numpy as np
from jaxtyping import Float64
from numpy import ndarray
from typing_extensions import override

from lab.core.heads.asymptotics import Risk
from lab.core.heads.factor_population import FactorPopulation
from lab.experiments.hmm_risk.cell_work import IndependentRows
from lab.experiments.hmm_risk.config import TaskName
from lab.experiments.hmm_risk.dependent_rows.asymptotic import dependent_risk, optimal_dependent_ridge
from lab.experiments.hmm_risk.dependent_rows.exact import dependent_risk_given_features
from lab.experiments.hmm_risk.dependent_rows.finite_size import LARGEST_CORRECTION, first_correction
from lab.experiments.hmm_risk.dependent_rows.mode_rows import ModeTokenRows
from lab.experiments.hmm_risk.dependent_rows.token_rows import HmmTokenRows, TokenRows
from lab.experiments.hmm_risk.dependent_rows.window_rows import WindowTokenRows
from lab.experiments.hmm_risk.grid.cell import Cell
from lab.experiments.hmm_risk.problems.gaussian import WindowProblem
from lab.experiments.hmm_risk.problems.modes import ModeProblem
from lab.experiments.hmm_risk.problems.problem import Problem
from lab.experiments.hmm_risk.rows import GaussianTheory, MeasuredRisk


class DependentRows(IndependentRows):
    """T rows per sequence; the theory of independent rows is recorded too, for comparison."""

    def __init__(self, cell: Cell, problem: Problem, number: int) -> None:
        super().__init__(cell, problem, number)
        self._rows = _token_rows(cell, problem)

    @override
    def theory(self) -> list[GaussianTheory]:
        """Theory for every width and strength; NaN where there is none.

        That is so where the state is too small or too slow for it, and for a start that is not stationary.
        """
        rows = super().theory()
        for row in rows:
            width, ridge, num_train = row["width"], row["ridge_strength"], self.cell.num_train
            row["theory_independent_rows"] = row["theory_excess_risk"]
            row["theory_exact"] = float("nan")
            risk, scale = Risk(math.nan, math.nan, math.nan), self.scale(width)
            if self._rows.has_theory:
                risk = dependent_risk(self._rows, width, num_train=num_train, ridge=ridge)
                row["theory_correction"] = first_correction(self._rows, width, num_train=num_train, ridge=ridge)
                if row["theory_correction"] > LARGEST_CORRECTION:
                    scale = math.nan
            row |= {
                "theory_excess_risk": scale * risk.excess,
                "theory_bias": scale * risk.bias,
                "theory_variance": scale * risk.variance,
                "theory_prediction_risk": scale * risk.excess + row["noise_floor"],
                "theory_fixed_problem_excess": scale * risk.excess + row["misspecification"],
            }
        return rows

    @override
    def measure(self, replicate: int) -> list[MeasuredRisk]:
        train = self.problem.rows("train", replicate, self.cell.num_train)
        rows: list[MeasuredRisk] = []
        for widths, ridges in self.blocks():
            for r, ridge in enumerate(ridges):
                risk = dependent_risk_given_features(self._rows, train.features, widths, ridge=ridge)
                rows += [
                    {
                        **self.measured_row(replicate, width, r),
                        "bias": self.scale(width) * float(risk.bias[w]),
                        "variance": self.scale(width) * float(risk.variance[w]),
                        "weight_norm": float(risk.squared_weight_norm[w] ** 0.5),
                        "effective_rank": min(width, self.cell.num_train),
                        "solved_by": "sequences",
                    }
                    for w, width in enumerate(widths)
                ]
        return rows

    @override
    def strengths(self) -> Float64[ndarray, "w r"]:
        return self._known_strengths

    @cached_property
    def _known_strengths(self) -> Float64[ndarray, "w r"]:
        # the best one takes a search, which a sweep needs once for all draws
        return np.array(
            [
                [
                    optimal_dependent_ridge(self._rows, width, num_train=self.cell.num_train)
                    if ridge == "optimal"
                    else float(ridge)
                    for ridge in self.cell.ridge
                ]
                for width in self.cell.widths
            ]
        )


def _token_rows(cell: Cell, problem: Problem) -> TokenRows:
    if isinstance(problem, ModeProblem):
        modes = problem.modes
        return ModeTokenRows(modes.decay, problem.observation_noise, cell.tokens_per_sequence, modes.angle)
    assert isinstance(problem, WindowProblem), "checked with the cell"
    if problem.window > 1:
        population = problem.population
        assert isinstance(population, FactorPopulation), "of a window"
        return WindowTokenRows(problem.hmm, cell.tokens_per_sequence, problem.window, population)
    is_token = cell.task.name is TaskName.next_token
    return HmmTokenRows(problem.hmm, cell.tokens_per_sequence, predicts_token=is_token)
