"""The units of work of a sweep, and which of them a record already holds.

A unit is what one process does at a time. A piece is what is recorded of it and found again: the theory of a problem,
or one draw of its rows. More problems or more draws are more pieces, so that a run can be extended.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from lab.experiments.hmm_risk.grid.cell import Cell
from lab.experiments.hmm_risk.rows import Row


class Piece(NamedTuple):
    """The smallest recorded piece of work.

    Attributes:
        cell: index of the cell.
        problem: number of the problem of the cell.
        replicate: number of the draw of the training rows; None for the theory.
    """

    cell: int
    problem: int
    replicate: int | None

    @staticmethod
    def of(row: Row) -> "Piece":
        """The piece to which a recorded row belongs."""
        replicate = row["replicate"] if row["kind"] == "measured" else None
        return Piece(row["cell"], row["problem"], replicate)


@dataclass(frozen=True, slots=True)
class Unit:
    """Pieces of one problem that are done together.

    Attributes:
        cell: index of the cell.
        problem: number of the problem of the cell.
        with_theory: whether its theory is one of the pieces.
        replicates: numbers of the draws.
    """

    cell: int
    problem: int = 0
    with_theory: bool = False
    replicates: tuple[int, ...] = ()

    @property
    def num_pieces(self) -> int:
        """How many pieces it has."""
        return self.with_theory + len(self.replicates)


def units(cells: Sequence[Cell], done: Collection[Piece] = frozenset()) -> Iterator[Unit]:
    """The units of a sweep without the pieces that are done, problem after problem.

    A discrete HMM's pieces form one unit, since its second moments cost more than they.
    """
    for cell in cells:
        for problem in range(cell.problems):
            with_theory = (cell.index, problem, None) not in done
            replicates = (r for r in range(cell.replicates) if (cell.index, problem, r) not in done)
            if cell.is_discrete:
                unit = Unit(cell.index, problem, with_theory, tuple(replicates))
                if unit.num_pieces:
                    yield unit
                continue
            if with_theory:
                yield Unit(cell.index, problem, with_theory=True)
            for replicate in replicates:
                yield Unit(cell.index, problem, replicates=(replicate,))


def count_units(cells: Sequence[Cell]) -> int:
    """The number of `units`, without those that are done."""
    return sum(cell.problems * (1 if cell.is_discrete else 1 + cell.replicates) for cell in cells)


def count_pieces(cells: Sequence[Cell]) -> int:
    """The number of pieces of all units."""
    return sum(cell.problems * (1 + cell.replicates) for cell in cells)


def recorded_pieces(rows: Iterable[Row], cells: Sequence[Cell]) -> set[Piece]:
    """The pieces with all rows recorded; those of a unit that was interrupted in the middle of one do not count."""
    counts: dict[Piece, int] = {}
    # of theory between the widths of the grid: how many rows there are, and how many were recorded
    between: dict[Piece, int] = {}
    expected: dict[Piece, int] = {}
    for row in rows:
        piece = Piece.of(row)
        if row["kind"] == "between":
            between[piece] = between.get(piece, 0) + 1
            continue
        counts[piece] = counts.get(piece, 0) + 1
        if row["kind"] == "theory":
            expected[piece] = row.get("num_between", 0)
    sizes = {cell.index: len(cell.widths) * len(cell.ridge) for cell in cells}
    return {
        piece
        for piece, count in counts.items()
        if count == sizes.get(piece.cell) and between.get(piece, 0) == expected.get(piece, 0)
    }
