"""A loader changes when batches are made, and nothing else."""

import os
from collections.abc import Callable
from typing import Any

import pytest
import torch

from lab.core.data.prefetch import Prefetched
from lab.core.data.stream import Stream
from lab.core.errors import ConfigError
from lab.experiments.distill.config import DistillConfig
from lab.experiments.distill.loader import Loader, loaded
from reference.numbered import Endless

Runner = Any


@pytest.mark.parametrize(
    ("loader", "device", "num_threads", "num_cores", "num_samples", "is_ahead"),
    [
        (Loader.auto, "cpu", 1, 2, 10_000, True),
        (Loader.auto, "cpu", 1, 2, 100, False),
        (Loader.auto, "cpu", 2, 2, 10_000, False),
        (Loader.auto, "cuda", 2, 2, 10_000, True),
        (Loader.auto, "cuda", 1, 1, 10_000, False),
        (Loader.process, "cpu", 1, 1, 1, True),
        (Loader.inline, "cpu", 1, 2, 10_000, False),
    ],
)
def test_a_process_is_started_where_it_pays_or_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
    loader: Loader,
    device: str,
    num_threads: int,
    num_cores: int,
    num_samples: int,
    is_ahead: bool,
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: num_threads)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(num_cores)))
    # none is started here
    monkeypatch.setattr(Prefetched, "__enter__", lambda self: self)
    stream = Stream(Endless(), batch_size=4, max_length=5, seed=5)
    with loaded(stream, loader, num_samples=num_samples, device=torch.device(device)) as batches:
        assert isinstance(batches, Prefetched) == is_ahead
        assert is_ahead or batches is stream


def test_several_processes_that_are_asked_for_are_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Prefetched, "__enter__", lambda self: self)
    stream = Stream(Endless(), batch_size=4, max_length=5, seed=5)
    with loaded(stream, Loader.auto, num_samples=1, device=torch.device("cpu"), processes=2) as batches:
        assert isinstance(batches, Prefetched)


def test_several_processes_between_the_steps_are_refused(small_config: Callable[..., DistillConfig]) -> None:
    assert small_config("stage=1", "loader=process", "loader_processes=3").loader_processes == 3
    with pytest.raises(ConfigError, match=r"loader_processes=2 with loader=inline: .* choose loader=process"):
        small_config("stage=1", "loader=inline", "loader_processes=2")
    with pytest.raises(ConfigError, match="loader_processes=0"):
        small_config("stage=1", "loader_processes=0")


@pytest.mark.parametrize("number", [1, 2])
def test_a_stage_with_batches_made_ahead_ends_with_the_same_weights(number: int, runner: Runner, whole: Runner) -> None:
    runner.run("ahead", "stage=1", "loader=process", f"loader_processes={number}")
    ours, theirs = runner.weights("ahead", 1), whole.weights("all", 1)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
