"""The record of a run in a process that records nothing: another one does."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from lab.core.runs.json_files import Entry
from lab.core.runs.record import Run
from lab.core.runs.row_store import RowStore

Row = TypeVar("Row", bound=Mapping[str, object])


class Follower(Run[Row]):
    """Takes what a `Run` takes, and keeps none of it; folders are named, not made."""

    def __init__(self, directory: Path) -> None:
        """See `Run.directory`."""
        self.directory = directory
        self.damage = None
        self._nothing: RowStore[Row] = RowStore()

    @property
    def rows(self) -> RowStore[Row]:
        """None."""
        return self._nothing

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        pass

    def log(self, rows: Sequence[Row]) -> None:
        """Nothing."""

    def flush(self) -> None:
        """Nothing."""

    def keep(self, counts: Callable[[Row], bool]) -> None:
        """Nothing."""

    def folder(self, *names: str) -> Path:
        """Where the folder is, or will be."""
        return self.directory.joinpath(*names)

    def save_summary(self, columns: Sequence[str], rows: Sequence[Sequence[Entry]], verdict: Sequence[str]) -> None:
        """Nothing."""

    def set_headline(self, title: str, headline: str) -> None:
        """Nothing."""
