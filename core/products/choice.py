"""Which implementation computes which product: torch's, unless another one is faster by a clear margin.

Times vary from run to run, on a busy machine by far, and a choice that varied with them would change results in the
last bits. What disturbs a product only adds to its time, so the least time of several rounds counts, and how far the
second-best round is behind it tells how much noise may still be in it. A challenger wins or loses once its lead is
beyond that noise, or, on a machine whose neighbours never rest, once nearly all rounds or few of them show the lead:
in a round, both are timed one right after the other. A challenger has to win at both ends of a class of rows and with
weights of two sizes; where nothing is decided, the choice stays as it was. Where little is, the machine is too busy.
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
# Classes with so many rows or more are chosen for once more with huge weights, of so many numbers or more: the memory
# pages of such a weight are more than a processor remembers at once, which costs some implementations half their speed.
MANY, HUGE = 256, 2**22
# how much faster a challenger must be
MARGIN = 0.1
# how close the second-best time is to the best where noise does not matter, and in how many rounds it may come so close
CLOSE, LEAST_ROUNDS, MOST_ROUNDS = 0.05, 4, 20
# how many rounds decide by themselves, and the shares of them with the margin that win and lose
PAIRS, NEARLY_ALL, FEW = 8, 7 / 8, 1 / 4
# a measurement takes one to two seconds on a machine at rest; the least rounds of each challenger, and all others
_LONGEST_S, _PATIENCE_S = 16.0, 4.0

# rows that stand for the class without an end
_MANY_ROWS = 512
# weights (outputs, inputs) that stand for the large ones, and for the huge ones
_WEIGHTS, _HUGE_WEIGHTS = ((1024, 2048), (1536, 576)), ((4096, 2048),)
# A time is the least of several: at least so many, and more of a short product, until so many seconds have passed; a
# long product is timed once a round
_LEAST_REPEATS, _MOST_REPEATS, _ENOUGH_S, _LONG_S = 3, 40, 0.002, 0.02


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
        is_huge: with a huge weight, where that makes a cell of it; else with any other weight.
    """

    operation: Operation
    row_class: int
    is_huge: bool = False

    @property
    def name(self) -> str:
        """In files."""
        return f"{_kind(self.operation, is_huge=self.is_huge)}, {_span(self.row_class, self.row_class)}"

    def may_use(self, implementation: Implementation) -> bool:
        """Whether an implementation computes the products of the cell."""
        return implementation.has(self.operation, self.sizes[-1].rows)

    @property
    def sizes(self) -> list[Size]:
        """What is measured for the cell, by ascending rows; of huge weights, which take long, as little as possible."""
        first, last = ROW_CLASSES[self.row_class]
        if self.is_huge:
            return [Size(first, *weight) for weight in _HUGE_WEIGHTS]
        ends = sorted({first, _MANY_ROWS if last is None else last})
        return [Size(rows, *weight) for rows in ends for weight in _WEIGHTS]


# last rows of all classes but the last one
_LAST_ROWS = [last for _, last in ROW_CLASSES if last is not None]


def row_class(rows: int) -> int:
    """The index in `ROW_CLASSES` of a number of rows."""
    return bisect_left(_LAST_ROWS, rows)


# classes of rows, and whether the weight is huge; those with huge weights last
SHAPES = (
    *((index, False) for index in range(len(ROW_CLASSES))),
    *((index, True) for index in range(row_class(MANY), len(ROW_CLASSES))),
)


def shape_of(rows: int, numbers: int) -> int:
    """The index in `SHAPES` of a product of so many rows with a weight of so many numbers."""
    return row_class(rows) + (_TO_HUGE if rows >= MANY and numbers >= HUGE else 0)


# from a class of rows with other weights to the same one with huge weights
_TO_HUGE = len(ROW_CLASSES) - row_class(MANY)
CELLS = tuple(Cell(operation, *shape) for operation in Operation for shape in SHAPES)

Table = Mapping[Cell, Implementation]
Seconds = Callable[[Implementation, Operation, Size], float]
"""The time of an implementation for a product."""


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
            order = list(zip(self._sides, times, strict=True))
            # neither is always the first, which finds the caches as the product before left them
            for implementation, side in order if len(times[0]) % 2 else reversed(order):
                side.append(seconds(implementation, self.cell.operation, size))
            if _is_clearly_faster(times) is False:
                self.is_won = False
                return
        if all(map(_is_clearly_faster, self._times.values())):
            self.is_won = True


def _is_clearly_faster(times: tuple[list[float], list[float]]) -> bool | None:
    """Whether the second side is faster by the margin; None as long as noise could decide it."""
    rounds = len(times[0])
    if rounds < LEAST_ROUNDS:
        return None
    (best, second), (best_of_challenger, second_of_challenger) = (sorted(side)[:2] for side in times)
    lead = best / ((1 + MARGIN) * best_of_challenger)
    noise = second / best, second_of_challenger / best_of_challenger
    if max(noise) <= 1 + CLOSE or abs(math.log(lead)) > math.log(noise[0] * noise[1]):
        return lead >= 1
    if rounds < PAIRS:
        return None
    share = sum(champion >= (1 + MARGIN) * challenger for champion, challenger in zip(*times, strict=True)) / rounds
    return True if share >= NEARLY_ALL else False if share <= FEW else None


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
    while sum(times) < _LONG_S and (
        len(times) < _LEAST_REPEATS or (len(times) < _MOST_REPEATS and sum(times) < _ENOUGH_S)
    ):
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

        weights = *_WEIGHTS, *_HUGE_WEIGHTS
        self._weights = {weight: draw(*weight) for weight in weights}
        self._rows = {width: draw(_MANY_ROWS, width) for weight in weights for width in weight}

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
    """A table in one line. Huge weights are named where they have a choice of their own."""
    if set(table.values()) == {TORCH}:
        return "torch everywhere"
    return "; ".join(_parts(table))


def _parts(table: Table) -> Iterator[str]:
    for operation in Operation:
        yield f"{operation.value}: {_spans(table, operation, range(len(ROW_CLASSES)), is_huge=False)}"
        many = range(row_class(MANY), len(ROW_CLASSES))
        if any(table[Cell(operation, index, True)] is not table[Cell(operation, index)] for index in many):
            yield f"{_kind(operation, is_huge=True)}: {_spans(table, operation, many, is_huge=True)}"


def from_words(words: str) -> dict[Cell, Implementation] | None:
    """The table that `described` put into a line; None if the line describes none."""
    if words == described(only(TORCH)):
        return only(TORCH)
    table: dict[Cell, Implementation] = {}
    for part in words.split("; "):
        kind, _, spans = part.partition(": ")
        for span in spans.split(", "):
            name, _, rows = span.partition(" for ")
            implementation, known = IMPLEMENTATIONS.get(name), _KINDS.get(kind)
            if implementation is None or known is None or rows not in _SPANS:
                return None
            operation, is_huge = known
            for index in _SPANS[rows]:
                if (index, is_huge) in SHAPES:
                    table[Cell(operation, index, is_huge)] = implementation
                # huge weights as others, as long as nothing else is said of them
                if not is_huge and (index, True) in SHAPES:
                    table[Cell(operation, index, True)] = implementation
    is_table = table.keys() == set(CELLS) and all(cell.may_use(each) for cell, each in table.items())
    return table if is_table else None


def _kind(operation: Operation, *, is_huge: bool) -> str:
    return f"{operation.value} with a weight of {HUGE:,} numbers or more" if is_huge else operation.value


def _spans(table: Table, operation: Operation, classes: range, *, is_huge: bool) -> str:
    def name(index: int) -> str:
        return table[Cell(operation, index, is_huge)].name

    groups = [(each, list(group)) for each, group in groupby(classes, key=name)]
    if len(groups) == 1:
        return groups[0][0]
    return ", ".join(f"{each} for {_span(group[0], group[-1])}" for each, group in groups)


def _span(first: int, last: int) -> str:
    """The rows of classes that follow one another."""
    least, most = ROW_CLASSES[first][0], ROW_CLASSES[last][1]
    if most is None:
        return f"{least} rows or more"
    if most == 1:
        return "1 row"
    return f"{most} rows" if least == most else f"{least} to {most} rows"


_KINDS = {_kind(operation, is_huge=huge): (operation, huge) for operation in Operation for huge in (False, True)}
# the classes of rows behind the words for them; all of them need no words
_SPANS: Mapping[str, range] = {
    **{_span(first, last): range(first, last + 1) for last in range(len(ROW_CLASSES)) for first in range(last + 1)},
    "": range(len(ROW_CLASSES)),
}
