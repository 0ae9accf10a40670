"""Rows in little memory: a few million of them take less than the file that they come from."""

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar, cast, overload

Row = TypeVar("Row", bound=Mapping[str, object])

_TYPES = {float: "d", int: "q"}
# a position holds the number of the group in its lowest bits
_BITS = 20


class RowStore(Sequence[Row], Generic[Row]):
    """A list of rows, stored by columns; a row is built each time it is asked for.

    Rows with the same columns in the same order share a group. A column of floats, or of ints, takes eight bytes a row;
    any other is a list of objects, equal strings being one.
    """

    def __init__(self, rows: Iterable[Row] = ()) -> None:
        self._groups: dict[tuple[str, ...], int] = {}
        self._names: list[tuple[str, ...]] = []
        self._columns: list[list[array[Any] | list[Any]]] = []
        self._places = array("Q")
        self._strings: dict[str, str] = {}
        self.extend(rows)

    def extend(self, rows: Iterable[Row]) -> None:
        """Append rows."""
        for row in rows:
            names = tuple(row)
            group = self._groups.get(names)
            if group is None:
                group = self._groups[names] = len(self._names)
                self._names.append(names)
                self._columns.append([_new_column(value) for value in row.values()])
            columns = self._columns[group]
            # not the length of the first column: a row may have none
            self._places.append(len(columns[0]) << _BITS | group if columns else group)
            for index, value in enumerate(row.values()):
                column = columns[index]
                if type(value) is str:
                    value = self._strings.setdefault(value, value)
                if type(column) is array and (_TYPES.get(type(value)) != column.typecode or not _fits(value)):
                    column = columns[index] = list(column)
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
        values = [column[index] for column in self._columns[group]]
        return cast("Row", dict(zip(self._names[group], values, strict=True)))


def _new_column(value: object) -> "array[Any] | list[Any]":
    typecode = _TYPES.get(type(value))
    return [] if typecode is None else array(typecode)


def _fits(value: object) -> bool:
    return type(value) is not int or -(2**63) <= value < 2**63
