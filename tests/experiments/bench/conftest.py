"""Benchmarks with tiny problems."""

import pytest

from lab.experiments.bench import harness


@pytest.fixture(autouse=True)
def no_collection_of_garbage(monkeypatch: pytest.MonkeyPatch) -> None:
    """The collection ahead of each round takes longer here than all that is timed: the tests hold many objects."""
    monkeypatch.setattr(harness.gc, "collect", lambda: 0)
