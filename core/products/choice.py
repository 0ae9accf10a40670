"""Which implementation computes which product: torch's, unless another one is faster by a clear margin.

Times vary from run to run, on a busy machine by far, and a choice that varied with them would change results in the
last bits. What disturbs a product only adds to its time, so the least time of several rounds counts, and how far the
second-best round is behind it tells how much noise may still be in it. A challenger wins or loses once its lead is
beyond that noise, at both ends of a class of rows and with weights of two sizes; where that never happens, the choice
stays as it was. Where it happens for few classes only, the machine is too busy for a choice.
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
# how close the second-best time is to the best where noise does not matter, and in how many rounds it may come so close
CLOSE, LEAST_ROUNDS, MOST_ROUNDS = 0.05, 4, 20
# a measurement takes one to two seconds on a machine at rest; the least rounds of each challenger, and all others
_LONGEST_S, _PATIENCE_S = 16.0, 4.0

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


class BusyError(Exception):
    """The machine is so busy that no choice can be trusted."""


def decide(challengers: Sequence[Implementation], seconds: Seconds) -> dict[Cell, Implementation]:
    """The implementation of every cell.

    Args:
        challengers: others than torch, each of which must beat what was chosen before it.
        seconds: measures.

    Raises:
        BusyError: if noise leaves more than half of the cells open. Fewer open cells keep what was chosen before.
    """
    chosen = dict.fromkeys(CELLS, TORCH)
    for challenger in challengers:
        duels = [_Duel(cell, chosen[cell], challenger) for cell in CELLS if cell.may_use(challenger)]
        open_duels, end = duels, time.monotonic() + _PATIENCE_S
        # all cells in every round, so that the rounds of a cell are apart in time
        for number in range(MOST_ROUNDS):
            if number >= LEAST_ROUNDS and time.monotonic() > end:
                break
            for duel in open_duels:
                duel.measure(seconds)
            open_duels = [duel for duel in open_duels if duel.is_won is None]
        if len(open_duels) > len(duels) / 2:
            raise BusyError(f"{open_duels[0].cell.name} and {len(open_duels) - 1} others: the times do not agree")
        chosen |= {duel.cell: challenger for duel in duels if duel.is_won}
    return chosen


class _Duel:
    """What was chosen for a cell against a challenger, at every size.

    Attributes:
        is_won: whether the challenger is clearly faster; None as long as that is open.
    """

    def __init__(self, cell: Cell, champion: Implementation, challenger: Implementation) -> None:
        self.cell = cell
        self.is_won: bool | None = None
        self._sides = champion, challenger
        self._times: dict[Size, tuple[list[float], list[float]]] = {size: ([], []) for size in cell.sizes}

    def measure(self, seconds: Seconds) -> None:
        """One more round, at the sizes that are open."""
        for size, times in self._times.items():
            if _is_clearly_faster(times) is not None:
                continue
            for implementation, side in zip(self._sides, times, strict=True):
                side.append(seconds(implementation, self.cell.operation, size))
            if _is_clearly_faster(times) is False:
                self.is_won = False
                return
        if all(map(_is_clearly_faster, self._times.values())):
            self.is_won = True


def _is_clearly_faster(times: tuple[list[float], list[float]]) -> bool | None:
    """Whether the second side is faster by the margin; None as long as noise could decide it."""
    if len(times[0]) < LEAST_ROUNDS:
        return None
    (best, second), (best_of_challenger, second_of_challenger) = (sorted(side)[:2] for side in times)
    lead = best / ((1 + MARGIN) * best_of_challenger)
    noise = second / best, second_of_challenger / best_of_challenger
    is_decided = max(noise) <= 1 + CLOSE or abs(math.log(lead)) > math.log(noise[0] * noise[1])
    return lead >= 1 if is_decided else None


def measured(dtype: torch.dtype) -> dict[Cell, Implementation]:
    """The implementation of every cell on this processor with the present number of torch threads, by measurement.

    Raises:
        BusyError: if the machine is too busy for one.
    """
    device = torch.device("cpu")
    challengers = [each for each in IMPLEMENTATIONS.values() if each is not TORCH and not each.why_not(device, dtype)]
    # whatever the caller is in the middle of
    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        operands = _Operands(dtype)

        end = time.monotonic() + _LONGEST_S

        def seconds(implementation: Implementation, operation: Operation, size: Size) -> float:
            if time.monotonic() > end:
                raise BusyError(f"{_LONGEST_S:g} s were not enough")
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


def from_words(words: str) -> dict[Cell, Implementation] | None:
    """The table that `described` put into a line; None if the line describes none."""
    if words == described(only(TORCH)):
        return only(TORCH)
    table: dict[Cell, Implementation] = {}
    for part in words.split("; "):
        operation, _, spans = part.partition(": ")
        for span in spans.split(", "):
            name, _, rows = span.partition(" for ")
            implementation, known = IMPLEMENTATIONS.get(name), _OPERATIONS.get(operation)
            if implementation is None or known is None or rows not in _SPANS:
                return None
            table |= {Cell(known, index): implementation for index in _SPANS[rows]}
    is_table = table.keys() == set(CELLS) and all(cell.may_use(each) for cell, each in table.items())
    return table if is_table else None


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


_OPERATIONS: Mapping[str, Operation] = {operation.value: operation for operation in Operation}
# the classes of rows behind the words for them; all of them need no words
_SPANS: Mapping[str, range] = {
    **{_span(first, last): range(first, last + 1) for last in range(len(ROW_CLASSES)) for first in range(last + 1)},
    "": range(len(ROW_CLASSES)),
}
