"""Work of a cell with several rows per sequence: exact risk and theory of dependent rows."""

from typing_extensions import override

from lab.experiments.hmm_risk.cell_work import IndependentRows
from lab.experiments.hmm_risk.dependent_rows.asymptotic import dependent_risk
from lab.experiments.hmm_risk.dependent_rows.exact import dependent_risk_given_features
from lab.experiments.hmm_risk.dependent_rows.token_rows import HmmTokenRows, ModeTokenRows, TokenRows
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
        rows = super().theory()
        for row in rows:
            risk = dependent_risk(self._rows, row["width"], num_train=self.cell.num_train, ridge=row["ridge_strength"])
            scale = self.scale(row["width"])
            row["theory_independent_rows"] = row["theory_excess_risk"]
            row["theory_exact"] = float("nan")
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
        for r, ridge in enumerate(self.cell.ridge):
            risk = dependent_risk_given_features(self._rows, train.features, self.cell.widths, ridge=float(ridge))
            rows += [
                {
                    **self.measured_row(replicate, width, r),
                    "bias": self.scale(width) * float(risk.bias[w]),
                    "variance": self.scale(width) * float(risk.variance[w]),
                    "weight_norm": float(risk.squared_weight_norm[w] ** 0.5),
                    "effective_rank": min(width, self.cell.num_train),
                    "solved_by": "sequences",
                }
                for w, width in enumerate(self.cell.widths)
            ]
        return rows


def _token_rows(cell: Cell, problem: Problem) -> TokenRows:
    if isinstance(problem, ModeProblem):
        modes = problem.modes
        return ModeTokenRows(modes.decay, problem.observation_noise, cell.tokens_per_sequence, modes.angle)
    assert isinstance(problem, WindowProblem), "checked with the cell"
    return HmmTokenRows(problem.hmm, cell.tokens_per_sequence)
