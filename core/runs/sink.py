"""Forwarding the rows of a run to its sinks; a failing sink does not stop the run."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

from lab.core.runs.sinks import new_sink
from lab.core.streams import say


class Sink(Protocol):
    """Receives every row of a run, in order."""

    def open(self, run: Path) -> None:
        """Start from nothing: a resumed run sends its earlier rows again.

        Args:
            run: the run's directory, to write into.
        """
        ...

    def row(self, row: Mapping[str, object]) -> None:
        """Receive a row; its `kind` distinguishes rows in runs that have several kinds."""
        ...

    def close(self) -> None:
        """Flush; called when the run ends, finished or not."""
        ...


class Sinks:
    """The sinks of one run; a sink that fails is reported once and dropped."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = list(names)
        self._open: dict[str, Sink] | None = None

    def pass_on(self, run: Path, earlier: Sequence[Mapping[str, object]], rows: Sequence[Mapping[str, object]]) -> None:
        """Send new rows to every sink; the first call sends the earlier ones before them."""
        if self._open is None:
            self._open = {}
            for name in self._names:
                self._try(name, partial(self._begin, name, run, earlier))
        for name, sink in list(self._open.items()):
            self._try(name, partial(_give, sink, rows))

    def close(self) -> None:
        """Close every sink that is open."""
        for name, sink in list((self._open or {}).items()):
            self._try(name, sink.close)
        self._open = None

    def _begin(self, name: str, run: Path, earlier: Sequence[Mapping[str, object]]) -> None:
        assert self._open is not None, "the caller made it"
        sink = new_sink(name)
        sink.open(run)
        _give(sink, earlier)
        self._open[name] = sink

    def _try(self, name: str, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:
            say(f"sink {name}: {type(error).__name__}: {error}; it gets no more rows")
            assert self._open is not None, "it is set before anything is tried"
            self._open.pop(name, None)


def _give(sink: Sink, rows: Sequence[Mapping[str, object]]) -> None:
    for row in rows:
        sink.row(row)
