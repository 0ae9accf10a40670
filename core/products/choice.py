"""Which implementation computes which product: torch's, unless another one won every round by a clear margin.

Times vary from run to run, on a busy machine by far, and a choice that varied with them would change results in the
last bits. So the challenger's slowest round has to beat the fastest one of what was chosen so far, by a margin, at both
ends of a class of rows and with weights of two sizes; else the choice stays as it was.
"""

import math
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor

from lab.core.products.implementations import IMPLEMENTATIONS, TORCH, Implementation, Operation

# numbers of elements of a weight below which torch is not worth replacing: its products take some ten microseconds
LARGE = 2**18
# First and last number of rows of each class. Narrow ones for decoding: what is fastest changes with every few rows, as
# products go from the speed of memory to that of arithmetic, and libraries from one kernel to another (MKL at 4 rows).
ROW_CLASSES = ((1, 1), (2, 3), (4, 8), (9, 16), (17, 255), (256, None))
# how much faster a challenger must be
MARGIN = 0.1
ROUNDS = 5

# rows that stand for the class without an end
_MANY_ROWS = 512
# weights (outputs, inputs) that stand for the large ones
_WEIGHTS = ((1024, 2048), (1536, 576))
# A time is the least of several: at least so many, and more of a short product, until so many seconds have passed
_LEAST_REPEATS, _MOST_REPEATS, _ENOUGH_S = 3, 40, 0.002


class Size(NamedTuple):
    """Rows, and a weight."""

    rows: int
    outputs: int
    inputs: int


class Cell(NamedTuple):
    """A kind of product that is chosen for.

    Attributes:
        operation: what is computed.
        row_class: index in `ROW_CLASSES`.
    """

    operation: Operation
    row_class: int

    @property
    def name(self) -> str:
        """In files."""
        return f"{self.operation.value}, {_span(self.row_class, self.row_class)}"

    def may_use(self, implementation: Implementation) -> bool:
        """Whether an implementation computes the products of the cell."""
        return implementation.has(self.operation, self.sizes[-1].rows)

    @property
    def sizes(self) -> list[Size]:
        """What is measured for the cell, by ascending rows."""
        first, last = ROW_CLASSES[self.row_class]
        ends = sorted({first, _MANY_ROWS if last is None else last})
        return [Size(rows, *weight) for rows in ends for weight in _WEIGHTS]


CELLS = tuple(Cell(operation, row_class) for operation in Operation for row_class in range(len(ROW_CLASSES)))

Table = Mapping[Cell, Implementation]
Seconds = Callable[[Implementation, Operation, Size], float]
"""The time of an implementation for a product."""
# last rows of all classes but the last one
_LAST_ROWS = [last for _, last in ROW_CLASSES if last is not None]


def row_class(rows: int) -> int:
    """The index in `ROW_CLASSES` of a number of rows."""
    return bisect_left(_LAST_ROWS, rows)


def decide(challengers: Sequence[Implementation], seconds: Seconds) -> dict[Cell, Implementation]:
    """The implementation of every cell.

    Args:
        challengers: others than torch, each of which must beat what was chosen before it.
        seconds: measures.
    """
    chosen = dict.fromkeys(CELLS, TORCH)
    for challenger in challengers:
        duels = [_Duel(cell, chosen[cell], challenger) for cell in CELLS if cell.may_use(challenger)]
        # all cells in every round, so that the rounds of a cell are apart in time
        for _ in range(ROUNDS):
            duels = [duel for duel in duels if duel.is_won(seconds)]
        chosen |= {duel.cell: challenger for duel in duels}
    return chosen


class _Duel:
    """What was chosen for a cell against a challenger: the one's best times so far, the other's worst."""

    def __init__(self, cell: Cell, champion: Implementation, challenger: Implementation) -> None:
        self.cell = cell
        self._champion, self._challenger = champion, challenger
        self._best = dict.fromkeys(cell.sizes, math.inf)
        self._worst = dict.fromkeys(cell.sizes, 0.0)

    def is_won(self, seconds: Seconds) -> bool:
        """Whether the challenger is clearly faster at every size after one more round."""
        return all(self._is_won_at(size, seconds) for size in self.cell.sizes)

    def _is_won_at(self, size: Size, seconds: Seconds) -> bool:
        self._best[size] = min(self._best[size], seconds(self._champion, self.cell.operation, size))
        self._worst[size] = max(self._worst[size], seconds(self._challenger, self.cell.operation, size))
        return self._best[size] >= (1 + MARGIN) * self._worst[size]


def measured(dtype: torch.dtype) -> dict[Cell, Implementation]:
    """The implementation of every cell on this processor with the present number of torch threads, by measurement."""
    device = torch.device("cpu")
    challengers = [each for each in IMPLEMENTATIONS.values() if each is not TORCH and not each.why_not(device, dtype)]
    # whatever the caller is in the middle of
    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        operands = _Operands(dtype)

        def seconds(implementation: Implementation, operation: Operation, size: Size) -> float:
            return _least_seconds(partial(implementation.functions[operation], *operands.of(operation, size)))

        return decide(challengers, seconds)


def _least_seconds(run: Callable[[], object]) -> float:
    times: list[float] = []
    while len(times) < _LEAST_REPEATS or (len(times) < _MOST_REPEATS and sum(times) < _ENOUGH_S):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


class _Operands:
    """Random operands of the products that are timed, made once."""

    def __init__(self, dtype: torch.dtype) -> None:
        generator = torch.Generator().manual_seed(0)

        def draw(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator).to(dtype)

        self._weights = {weight: draw(*weight) for weight in _WEIGHTS}
        self._rows = {width: draw(_MANY_ROWS, width) for weight in _WEIGHTS for width in weight}

    def of(self, operation: Operation, size: Size) -> tuple[Tensor | None, ...]:
        x, gradient = (self._rows[width][: size.rows] for width in (size.inputs, size.outputs))
        weight = self._weights[size.outputs, size.inputs]
        if operation is Operation.forward:
            return x, weight, None
        return gradient, (weight if operation is Operation.input_gradient else x)


def only(implementation: Implementation) -> dict[Cell, Implementation]:
    """A table with one implementation wherever it has the product, and torch's elsewhere."""
    return {cell: implementation if cell.may_use(implementation) else TORCH for cell in CELLS}


def described(table: Table) -> str:
    """A table in one line."""
    if set(table.values()) == {TORCH}:
        return "torch everywhere"
    return "; ".join(f"{operation.value}: {', '.join(_spans(table, operation))}" for operation in Operation)


def _spans(table: Table, operation: Operation) -> Iterator[str]:
    names = [table[Cell(operation, index)].name for index in range(len(ROW_CLASSES))]
    for name, group in groupby(range(len(names)), key=names.__getitem__):
        indices = list(group)
        yield name if len(indices) == len(names) else f"{name} for {_span(indices[0], indices[-1])}"


def _span(first: int, last: int) -> str:
    """The rows of classes that follow one another."""
    least, most = ROW_CLASSES[first][0], ROW_CLASSES[last][1]
    if most is None:
        return f"{least} rows or more"
    if most == 1:
        return "1 row"
    return f"{most} rows" if least == most else f"{least} to {most} rows"
