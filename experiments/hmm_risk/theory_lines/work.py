"""Theory rows of one problem, at the widths of the grid and between them."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import cast

from lab.core.heads.population import DensePopulation
from lab.experiments.hmm_risk.cell_work import CellWork, IndependentRows
from lab.experiments.hmm_risk.problems.modes import ModeProblem
from lab.experiments.hmm_risk.rows import Theory
from lab.experiments.hmm_risk.theory_lines.nodes import Row, rows_between
from lab.experiments.hmm_risk.theory_lines.table import step_of


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
    # with one width there is no line, and a Gaussian reference is no prediction whose line would matter
    if not isinstance(work, IndependentRows) or len(work.cell.widths) == 1:
        return []
    cell = work.cell
    # a search for the best strength at each width, each step of which solves for the risk of dependent rows
    if cell.tokens_per_sequence > 1 and "optimal" in cell.ridge:
        return []

    def theory_at(widths: Sequence[int]) -> list[Row]:
        elsewhere = type(work)(replace(cell, widths=tuple(widths)), work.problem, work.number)
        return [cast("Row", row) for row in elsewhere.theory()]

    found = rows_between(
        [cast("Row", row) for row in at_grid],
        theory_at,
        num_train=cell.num_train,
        is_dependent=cell.tokens_per_sequence > 1,
        cost=_cost(work),
        step=step_of(cell),
    )
    return [cast("Theory", row) for row in found]


def _cost(work: IndependentRows) -> Callable[[int], int] | None:
    """The cost of theory at a width; None if it is cheap."""
    if isinstance(work.problem.population, DensePopulation):
        # an eigendecomposition
        return lambda width: width**3
    if work.cell.tokens_per_sequence > 1 and not isinstance(work.problem, ModeProblem):
        # matrices of the state's size for each lag
        return lambda _: 1
    return None
