"""Benchmarks with tiny problems."""

import os
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lab.experiments.bench import harness


@pytest.fixture(autouse=True)
def no_collection_of_garbage(monkeypatch: pytest.MonkeyPatch) -> None:
    """The collection ahead of each round takes longer here than all that is timed: the tests hold many objects."""
    monkeypatch.setattr(harness.gc, "collect", lambda: 0)


@pytest.fixture
def lab(lab: Callable[..., Any], command_server: "subprocess.Popen[str]") -> Iterator[Callable[..., Any]]:
    """On one core: with two, every small operation on a busy machine waits for the second."""
    if not hasattr(os, "sched_setaffinity"):
        yield lab
        return
    before = os.sched_getaffinity(command_server.pid)
    os.sched_setaffinity(command_server.pid, {max(before)})
    yield lab
    os.sched_setaffinity(command_server.pid, before)
