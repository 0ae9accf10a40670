"""Rows in little memory: a few million of them take less than the file that they come from."""

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar, cast, overload

Row = TypeVar("Row", bound=Mapping[str, object])

# a position holds the number of the group in its lowest bits
_BITS = 20
# of signed whole numbers, by the bytes that they take
_INTS = "bhiq"


class RowStore(Sequence[Row], Generic[Row]):
    """A list of rows, stored by columns; a row is built each time it is asked for.

    Rows with the same columns in the same order share a group.
    """

    def __init__(self, rows: Iterable[Row] = ()) -> None:
        self._groups: dict[tuple[str, ...], int] = {}
        self._names: list[tuple[str, ...]] = []
        self._columns: list[list[_Column]] = []
        self._places = array("Q")
        self.extend(rows)

    def extend(self, rows: Iterable[Row]) -> None:
        """Append rows."""
        for row in rows:
            names = tuple(row)
            group = self._groups.get(names)
            if group is None:
                group = self._groups[names] = len(self._names)
                self._names.append(names)
                self._columns.append([_Column(type(value)) for value in row.values()])
            columns = self._columns[group]
            # not the length of the first column: a row may have none
            self._places.append(len(columns[0].values) << _BITS | group if columns else group)
            for column, value in zip(columns, row.values(), strict=True):
                column.append(value)

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[Row]:
        return map(self._at, self._places)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        if isinstance(index, slice):
            return [self._at(place) for place in self._places[index]]
        return self._at(self._places[index])

    def _at(self, place: int) -> Row:
        group, index = place & (1 << _BITS) - 1, place >> _BITS
        values = [
            column.values[index] if column.words is None else column.words[column.values[index]]
            for column in self._columns[group]
        ]
        return cast("Row", dict(zip(self._names[group], values, strict=True)))


class _Column:
    """Values of one kind: a float takes eight bytes; a whole number, or the number of a word, as few as the largest.

    With values of several kinds, or another one, a column is a list of objects.

    Attributes:
        values: the numbers, or the objects.
        words: the words in the order of their numbers; None if the column does not hold words.
    """

    __slots__ = ("_kind", "_numbers", "values", "words")

    def __init__(self, kind: type) -> None:
        self._kind: type | None = kind if kind in (float, int, str) else None
        self.values: array[Any] | list[Any] = [] if self._kind is None else array("d" if kind is float else _INTS[0])
        self.words: list[str] | None = [] if kind is str else None
        self._numbers: dict[str, int] = {}

    def append(self, value: Any) -> None:
        """Append a value."""
        if self._kind is not type(value) and self._kind is not None:
            self._hold_objects()
        if self.words is not None:
            number = self._numbers.setdefault(value, len(self.words))
            if number == len(self.words):
                self.words.append(value)
            value = number
        try:
            self.values.append(value)
        except OverflowError:
            self._widen()
            self.append(value if self.words is None else self.words[value])

    def _widen(self) -> None:
        assert isinstance(self.values, array), "a list takes everything"
        wider = _INTS[_INTS.index(self.values.typecode) + 1 :]
        if wider:
            self.values = array(wider[0], self.values)
        else:
            self._hold_objects()

    def _hold_objects(self) -> None:
        words = self.words
        self.values = list(self.values) if words is None else [words[number] for number in self.values]
        self._kind = self.words = None
