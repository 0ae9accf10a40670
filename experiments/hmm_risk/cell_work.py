"""The work of a cell: its theory, and the exact risk of its heads on one draw of the training rows."""

# Letters: w widths, r ridge strengths.

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from lab.core.heads.decompositions import default_rank_tolerance
from lab.core.heads.linear_head import LinearHead, monte_carlo_risk
from lab.core.heads.risk_by_width import nested_risk
from lab.experiments.hmm_risk.grid.cell import Cell
from lab.experiments.hmm_risk.problems.problem import Problem, Rows
from lab.experiments.hmm_risk.results.curves import TheoryCurve, optimal_ridges, theory_curve
from lab.experiments.hmm_risk.rows import (
    GaussianTheory,
    Measured,
    MeasuredKey,
    MeasuredRisk,
    TestedRisk,
    TestRisk,
    Theory,
)
from lab.experiments.hmm_risk.theory_lines.dense import dense_curve, is_regular


class CellWork(ABC):
    """What one problem of a cell contributes to the table."""

    @abstractmethod
    def theory(self) -> Sequence[Theory]:
        """A row for every width and ridge strength: what is known before any training row is drawn."""

    @abstractmethod
    def measure(self, replicate: int) -> Sequence[Measured]:
        """A row for every width and ridge strength: bias, variance and size of the head on one draw."""


class IndependentRows(CellWork):
    """One row a sequence: the closed form given the features, and the asymptotic theory over it."""

    def __init__(self, cell: Cell, problem: Problem, number: int) -> None:
        self.cell = cell
        self.problem = problem
        self.number = number

    def theory(self) -> list[GaussianTheory]:
        """Theory for every width and ridge strength."""
        return self._theory_rows(
            theory_curve(
                self.problem.population, self.cell.widths, num_train=self.cell.num_train, ridges=self.strengths()
            )
        )

    def line_theory(self) -> list[GaussianTheory]:
        """The same, of the many widths of a line."""
        population, widths = self.problem.population, self.cell.widths
        if not is_regular(population):
            return self.theory()
        return self._theory_rows(dense_curve(population, widths, num_train=self.cell.num_train, ridges=self.cell.ridge))

    def measure(self, replicate: int) -> list[MeasuredRisk]:
        """Exact risk given the features of one draw; with `num_test`, also that of a fitted head on test rows."""
        cell = self.cell
        train = self.problem.rows("train", replicate, cell.num_train)
        test = None if cell.num_test is None else self.problem.rows("test", replicate, cell.num_test)
        rows: list[MeasuredRisk] = []
        for widths, ridges in self.blocks():
            risk = nested_risk(train.features, self.problem.population, widths, ridge=ridges, rtol=cell.rank_tolerance)
            for w, width in enumerate(widths):
                for r, ridge in enumerate(ridges):
                    row: MeasuredRisk = {
                        **self.measured_row(replicate, width, r),
                        "bias": self.scale(width) * float(risk.bias[w, r]),
                        "variance": self.scale(width) * float(risk.variance[w, r]),
                        "weight_norm": float(risk.squared_weight_norm[w, r] ** 0.5),
                        "effective_rank": int(risk.rank[w]),
                        "solved_by": risk.method[w],
                    }
                    if test is not None:
                        tested: TestedRisk = {**row, **self._test_row(train, test, width, ridge)}
                        row = tested
                    rows.append(row)
        return rows

    def scale(self, width: int) -> float:
        """What a risk summed over outputs is multiplied with."""
        return 1 / self.problem.population.num_outputs(width) if self.cell.per_output else 1.0

    def measured_row(self, replicate: int, width: int, r: int) -> MeasuredKey:
        """The columns that say which head a measured row is about."""
        return {
            "kind": "measured",
            "cell": self.cell.index,
            "problem": self.number,
            "replicate": replicate,
            "width": width,
            "ridge": ridge_label(self.cell.ridge[r]),
            "rank_tolerance": rank_tolerance(self.cell, width),
        }

    def blocks(self) -> list[tuple[tuple[int, ...], tuple[float, ...]]]:
        """Widths and the strengths that they share: all of them, unless the best strength is asked for."""
        strengths = self.strengths()
        if np.all(strengths == strengths[:1]):
            return [(self.cell.widths, tuple(strengths[0].tolist()))]
        return [((width,), tuple(strengths[w].tolist())) for w, width in enumerate(self.cell.widths)]

    def _theory_rows(self, curve: TheoryCurve) -> list[GaussianTheory]:
        return [
            self._theory_row(curve, w, r) for w in range(len(self.cell.widths)) for r in range(len(self.cell.ridge))
        ]

    def _theory_row(self, curve: TheoryCurve, w: int, r: int) -> GaussianTheory:
        scale = self.scale(self.cell.widths[w])
        return {
            "kind": "theory",
            "cell": self.cell.index,
            "problem": self.number,
            "problem_is_drawn": self.cell.draws_problem,
            "width": self.cell.widths[w],
            "ridge": ridge_label(self.cell.ridge[r]),
            "ridge_strength": float(curve.ridges[w, r]),
            "observation_noise": self.problem.observation_noise,
            "snr": float(curve.snr[w]),
            "num_outputs": int(curve.num_outputs[w]),
            "noise_floor": scale * float(curve.noise_trace[w]),
            "misspecification": scale * float(curve.misspecification[w]),
            "null_risk": scale * float(curve.signal[w] + curve.noise_trace[w]),
            "gaussian_reference": False,
            "theory_excess_risk": scale * float(curve.excess[w, r]),
            "theory_bias": scale * float(curve.bias[w, r]),
            "theory_variance": scale * float(curve.variance[w, r]),
            "theory_prediction_risk": scale * float(curve.total[w, r]),
            "theory_fixed_problem_excess": scale * float(curve.fixed_problem_excess[w, r]),
            "theory_exact": scale * float(curve.exact_excess[w]) if curve.ridges[w, r] == 0 else np.nan,
            "theory_independent_rows": np.nan,
            "theory_correction": np.nan,
        }

    def strengths(self) -> Float64[ndarray, "w r"]:
        """The ridge strength of every width and entry of `ridge`."""
        columns = [
            optimal_ridges(self.problem.population, self.cell.widths, num_train=self.cell.num_train)
            if ridge == "optimal"
            else np.full(len(self.cell.widths), float(ridge))
            for ridge in self.cell.ridge
        ]
        return np.column_stack(columns)

    def _test_row(self, train: Rows, test: Rows, width: int, ridge: float) -> TestRisk:
        num_outputs = self.problem.population.num_outputs(width)
        targets = train.targets[:, :num_outputs]
        tolerance = rank_tolerance(self.cell, width)
        head = LinearHead.fit(
            train.features[:, :width],
            # without signal the best strength is infinite: the head that targets of zero give
            np.zeros_like(targets) if np.isinf(ridge) else targets,
            ridge=0.0 if np.isinf(ridge) else ridge,
            rtol=tolerance,
        )
        risk = monte_carlo_risk(head, test.features[:, :width], test.targets[:, :num_outputs])
        scale = self.scale(width)
        return {"test_risk": scale * risk.mean, "test_standard_error": scale * risk.standard_error}


def ridge_label(ridge: float | str) -> str:
    """A ridge strength as the table's key: 0 and 0.0 are the same strength, and every digit counts."""
    return ridge if isinstance(ridge, str) else str(float(ridge)).removesuffix(".0")


def rank_tolerance(cell: Cell, width: int) -> float:
    """The share of the largest singular value below which one counts as zero."""
    if cell.rank_tolerance is not None:
        return cell.rank_tolerance
    return default_rank_tolerance(cell.num_train, width)
