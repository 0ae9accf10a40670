"""Theory rows of one problem, at the widths of the grid and between them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

from lab.core.heads.population import DensePopulation
from lab.experiments.hmm_risk.cell_work import CellWork, IndependentRows
from lab.experiments.hmm_risk.problems.gaussian import GaussianProblem
from lab.experiments.hmm_risk.rows import Theory
from lab.experiments.hmm_risk.theory_lines.dense import is_regular
from lab.experiments.hmm_risk.theory_lines.nodes import Row, rows_between
from lab.experiments.hmm_risk.theory_lines.spacing import DRAWN, Spacing
from lab.experiments.hmm_risk.theory_lines.table import step_of

# theory of dependent rows solves for T unknowns at each width, and is interpolated between more distant ones
_DEPENDENT = Spacing(0.1, 0.3, tolerance=0.005)
# Widths up to which theory is evaluated at each one. A random walk from one width to the next has steps of about
# √(2/k)/p for k states, and of up to 3/p for the bias of a random projection (measured); then it stays within half a
# per cent of the line. With dependent rows the walk is a small part of the risk.
_ROUGH, _ROUGH_DEPENDENT, _ROUGH_PROJECTION = 1200.0, 350.0, 725.0


def theory_rows(work: CellWork) -> list[Theory]:
    """The theory of a problem: first the rows between the widths of its grid, then those at them."""
    at_grid = list(work.theory())
    between = _between(work, at_grid)
    for row in between:
        row["kind"] = "between"
    for row in at_grid:
        row["num_between"] = len(between)
    return between + at_grid


def _between(work: CellWork, at_grid: Sequence[Theory]) -> list[Theory]:
    # with one width there is no line, and a Gaussian reference is not a prediction whose line would matter
    if not isinstance(work, IndependentRows) or len(work.cell.widths) == 1:
        return []
    cell = work.cell
    # a search for the best strength at each width, each step of which solves for the risk of dependent rows
    if cell.tokens_per_sequence > 1 and "optimal" in cell.ridge:
        return []

    def theory_at(widths: Sequence[int]) -> list[Row]:
        elsewhere = type(work)(replace(cell, widths=tuple(widths)), work.problem, work.number)
        return [cast("Row", row) for row in elsewhere.line_theory()]

    found = rows_between(
        [cast("Row", row) for row in at_grid],
        theory_at,
        num_train=cell.num_train,
        is_dependent=cell.tokens_per_sequence > 1,
        spacing=_spacing(work),
        step=step_of(cell),
    )
    return [cast("Theory", row) for row in found]


def _spacing(work: IndependentRows) -> Spacing:
    if is_regular(work.problem.population):
        # all widths are evaluated together, and are as many as the line needs
        return replace(DRAWN, rough_until=_ROUGH_PROJECTION, tolerance=None)
    if isinstance(work.problem.population, DensePopulation):
        # an eigendecomposition for each
        return replace(DRAWN, tolerance=None)
    is_dependent = work.cell.tokens_per_sequence > 1
    usual, rough = (_DEPENDENT, _ROUGH_DEPENDENT) if is_dependent else (DRAWN, _ROUGH)
    if isinstance(work.problem, GaussianProblem):
        return replace(usual, rough_until=rough / work.problem.hmm.state_dim**0.5)
    return usual
